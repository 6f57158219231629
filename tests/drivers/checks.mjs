// What the JavaScript programs share: the site, and one JSON line for each check.
import { createRequire } from "node:module";
import { isDeepStrictEqual, inspect } from "node:util";

/** A check of what PostgreSQL alone does not have. */
export const throughPgtenant = (check) => Object.assign(check, { proxied: true });

export const SITE = JSON.parse(process.env.DRIVERS_SITE);
export const ROWS = 3;
const LIMIT_MS = 30_000;

/** A driver out of the directory that run.py installed it to. */
export const driver = (name) => createRequire(`${process.env.DRIVERS_NODE}/`)(name);

/** Rows 1…ROWS of a tenant. Nothing says whose they are: that is the connection's. */
export const insert = (tenant) => `INSERT INTO notes (id, note) SELECT i, '${tenant}' FROM generate_series(1, ${ROWS}) i`;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function equal(found, expected) {
  if (!isDeepStrictEqual(found, expected)) throw new Error(`${inspect(found)} is not ${inspect(expected)}`);
}

/** The SQLSTATE that something fails with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return "no error";
}

/** Where and as whom to connect. */
export function login(place, tenant = SITE.tenant) {
  return { host: place.host, port: place.port, ...place.logins[tenant] };
}

/** Every check on every place; `checks` are functions of one place, named for what they hold. */
export async function run(checks) {
  for (const place of SITE.places) {
    for (const check of checks) {
      if (check.proxied && place.isolation === "direct") continue;
      let error = null;
      let timer;
      const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`still running after ${LIMIT_MS} ms`)), LIMIT_MS)));
      try {
        await Promise.race([check(place), late]);
      } catch (failure) {
        const line = /with_\w+\.mjs:(\d+)/.exec(failure.stack ?? "")?.[1];
        error = `${failure.code ?? failure.name} in line ${line}: ${failure.message}`;
      }
      clearTimeout(timer);
      console.log(JSON.stringify({ place: place.name + (place.tls ? " TLS" : ""), check: check.name, error }));
    }
  }
  process.exit(0);
}
