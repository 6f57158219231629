// postgres.js: pipelines everything, names its statements, describes before it binds, streams COPY.
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import { ROWS, SITE, driver, equal, failure, insert, login, run, sleep, throughPgtenant } from "./checks.mjs";

const postgres = driver("postgres");

function how(place, tenant = SITE.tenant, more = {}) {
  const ssl = place.tls ? { rejectUnauthorized: false } : false;
  const { schema, ...settings } = login(place, tenant);
  return { ...settings, ssl, max: 1, onnotice: () => {}, ...more };
}

async function using(settings, work) {
  const sql = postgres(settings);
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

async function rows_are_its_own(place) {
  for (const tenant of [SITE.neighbour, SITE.tenant]) {
    await using(how(place, tenant), (sql) => sql.unsafe(`DELETE FROM notes; ${insert(tenant)}`));
  }
  for (const tenant of [SITE.tenant, SITE.neighbour]) {
    equal(await using(how(place, tenant), async (sql) => (await sql`SELECT note FROM notes`).map((row) => row.note)), Array(ROWS).fill(tenant));
  }
}

async function tenant_as_a_parameter(place) {
  const settings = how(place, SITE.tenant, { user: "app", connection: { tenant: SITE.tenant, application_name: "drivers" } });
  equal(await using(settings, async (sql) => [...(await sql`SELECT note || current_setting('application_name') AS n FROM notes LIMIT 1`)]), [{ n: `${SITE.tenant}drivers` }]);
}

async function parameters(place) {
  await using(how(place), async (sql) => {
    const [row] = await sql`SELECT ${1}::int a, ${"grüße"}::text b, ${Buffer.from([0, 255])}::bytea c, ${[1, 2]}::int[] d, ${sql.json({ a: [1] })}::jsonb e, ${null}::text f`;
    equal({ ...row }, { a: 1, b: "grüße", c: Buffer.from([0, 255]), d: [1, 2], e: { a: [1] }, f: null });
    equal((await sql`SELECT length(${"y".repeat(3_000_000)}) n`)[0].n, 3_000_000);
  });
}

async function prepared_reuse(place) {
  await using(how(place, SITE.tenant, { max: 3 }), async (sql) => {
    for (let round = 0; round < 5; round++) {
      const rows = await Promise.all(Array.from({ length: 30 }, (_, i) => sql`SELECT note || ${String(i)} AS n FROM notes WHERE id = 1`));
      equal(rows.map(([row]) => row.n), Array.from({ length: 30 }, (_, i) => SITE.tenant + i));
    }
  });
}

async function transactions(place) {
  await using(how(place), async (sql) => {
    const code = await failure(
      sql.begin(async (tx) => {
        await tx`INSERT INTO notes (id) VALUES (900)`;
        equal(await failure(tx.savepoint((inner) => inner`SELECT 1/0`)), "22012");
        equal((await tx`SELECT id FROM notes WHERE id >= 900`).map((row) => row.id), [900]);
        await tx`SELECT 1/0`;
      }),
    );
    equal(code, "22012");
    equal((await sql`SELECT count(*)::int n FROM notes WHERE id >= 900`)[0].n, 0);
  });
}

async function errors(place) {
  await using(how(place), async (sql) => {
    equal(await failure(sql`SELECT 1/${0}::int`), "22012");
    equal(await failure(sql`nonsense ${0}`), "42601");
    const pipelined = await Promise.all([failure(sql`SELECT ${1}::int`), failure(sql`SELECT 1/${0}::int`), failure(sql`SELECT ${2}::int`)]);
    equal(pipelined, ["no error", "22012", "no error"]);
  });
}

async function copy_in(place) {
  await using(how(place), (sql) =>
    sql.begin(async (tx) => {
      await tx`CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP`;
      await pipeline(Readable.from(Array.from({ length: 20_000 }, (_, i) => `${i}\trow\n`)), await tx`COPY t FROM STDIN`.writable());
      equal((await tx`SELECT count(*)::int n FROM t`)[0].n, 20_000);
    }),
  );
}

/** In a transaction the driver itself hangs after this, with PostgreSQL alone as well (3.4). */
async function copy_out(place) {
  await using(how(place), async (sql) => {
    let bytes = "";
    for await (const chunk of await sql`COPY (SELECT generate_series(1, 20000)) TO STDOUT`.readable()) bytes += chunk;
    equal(bytes.split("\n").length, 20_001);
  });
}

async function cursors(place) {
  await using(how(place), async (sql) => {
    let count = 0;
    await sql`SELECT generate_series(1, 1000)`.cursor(100, (rows) => void (count += rows.length));
    equal(count, 1000);
  });
}

async function listen_notify(place) {
  const channel = `postgresjs_${place.name}_${place.tls}`.toLowerCase();
  await using(how(place), async (sql) => {
    let tell;
    const heard = new Promise((resolve) => (tell = resolve));
    await sql.listen(channel, tell);
    await sql.notify(channel, "hello");
    equal(await heard, "hello");
  });
}

async function cancel(place) {
  await using(how(place), async (sql) => {
    const running = sql`SELECT pg_sleep(60)`;
    const code = failure(running);
    await sleep(400);
    running.cancel();
    equal(await code, "57014");
    equal((await sql`SELECT 1 AS one`)[0].one, 1);
  });
}

async function pool_of_connections(place) {
  await using(how(place, SITE.tenant, { max: place.mode === "transaction" ? 12 : 4 }), async (sql) => {
    const rows = await Promise.all(Array.from({ length: 200 }, (_, i) => sql`SELECT note || ${String(i)} AS n FROM notes WHERE id = ${1 + (i % ROWS)}`));
    equal(rows.map(([row]) => row.n), Array.from({ length: 200 }, (_, i) => SITE.tenant + i));
  });
}

await run([rows_are_its_own, throughPgtenant(tenant_as_a_parameter), parameters, prepared_reuse, transactions, errors, copy_in, copy_out, cursors, listen_notify, cancel, pool_of_connections]);
