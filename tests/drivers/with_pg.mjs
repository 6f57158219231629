// node-postgres: unnamed and named statements, cancel requests, a pool.
import { ROWS, SITE, driver, equal, failure, insert, run, sleep } from "./checks.mjs";

const { Client, Pool, Query } = driver("pg");

function how(place, tenant = SITE.tenant, more = {}) {
  const ssl = place.tls ? { rejectUnauthorized: false } : false;
  return { host: SITE.host, port: SITE.port, user: `app@${tenant}`, password: SITE.passwords[tenant], database: place.module, ssl, ...more };
}

async function using(settings, work) {
  const client = new Client(settings);
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function rows_are_its_own(place) {
  for (const tenant of [SITE.neighbour, SITE.tenant]) {
    await using(how(place, tenant), (client) => client.query(`DELETE FROM notes; ${insert(tenant)}`));
  }
  for (const tenant of [SITE.tenant, SITE.neighbour]) {
    const { rows } = await using(how(place, tenant), (client) => client.query("SELECT note FROM notes"));
    equal(rows.map((row) => row.note), Array(ROWS).fill(tenant));
  }
}

async function tenant_in_options(place) {
  const settings = how(place, SITE.tenant, { user: "app", options: `-c tenant=${SITE.tenant}` });
  equal((await using(settings, (client) => client.query("SELECT note FROM notes LIMIT 1"))).rows, [{ note: SITE.tenant }]);
}

async function wrong_password(place) {
  equal(await failure(using(how(place, SITE.tenant, { password: "wrong" }), () => {})), "28P01");
}

async function parameters(place) {
  await using(how(place), async (client) => {
    const { rows } = await client.query("SELECT $1::int a, $2::text b, $3::bytea c, $4::int[] d, $5::jsonb e, $6::text f", [
      1, "grüße", Buffer.from([0, 255]), [1, 2], { a: [1] }, null,
    ]);
    equal(rows[0], { a: 1, b: "grüße", c: Buffer.from([0, 255]), d: [1, 2], e: { a: [1] }, f: null });
    equal((await client.query("SELECT length($1) l, repeat('x', $2) r", ["y".repeat(3_000_000), 3_000_000])).rows[0].r.length, 3_000_000);
  });
}

async function prepared_reuse(place) {
  await using(how(place), (first) =>
    using(how(place), async (second) => {
      for (let i = 0; i < 20; i++) {
        const one = await first.query({ name: "note", text: "SELECT note || $1 AS n FROM notes WHERE id = 1", values: [i] });
        const two = await second.query({ name: "note", text: "SELECT id * 100 + $1::int AS n FROM notes WHERE id = 2", values: [i] });
        equal([one.rows[0].n, two.rows[0].n], [SITE.tenant + i, 200 + i]);
      }
    }),
  );
}

async function transactions(place) {
  await using(how(place), async (client) => {
    await client.query("BEGIN");
    await client.query("INSERT INTO notes (id) VALUES ($1)", [900]);
    await client.query("SAVEPOINT s");
    equal(await failure(client.query("SELECT 1/0")), "22012");
    equal(await failure(client.query("SELECT 1")), "25P02");
    await client.query("ROLLBACK TO s");
    equal((await client.query("SELECT id FROM notes WHERE id >= 900")).rows, [{ id: 900 }]);
    await client.query("ROLLBACK");
    equal((await client.query("SELECT count(*)::int n FROM notes WHERE id >= 900")).rows, [{ n: 0 }]);
  });
}

async function errors(place) {
  await using(how(place), async (client) => {
    equal(await failure(client.query("SELECT 1/$1::int", [0])), "22012");
    equal(await failure(client.query({ name: "bad", text: "nonsense $1", values: [0] })), "42601");
    equal(await failure(client.query({ name: "worse", text: "SELECT 1/$1::int", values: [0] })), "22012");
    equal((await client.query({ name: "worse", text: "SELECT 1/$1::int", values: [1], rowMode: "array" })).rows, [[1]]);
  });
}

async function state_of_a_session(place) {
  await using(how(place), async (client) => {
    await client.query("SET work_mem = '123kB'");
    await client.query("CREATE TEMP TABLE t AS SELECT 5 AS a");
    for (let i = 0; i < 3; i++) {
      equal((await client.query("SELECT a, current_setting('work_mem') w FROM t")).rows, [{ a: 5, w: "123kB" }]);
    }
  });
}

async function listen_notify(place) {
  const channel = `pg_${place.module}_${place.tls}`;
  await using(how(place), (listener) =>
    using(how(place), async (sender) => {
      const heard = new Promise((resolve) => listener.on("notification", resolve));
      await listener.query(`LISTEN ${channel}`);
      await sender.query("SELECT pg_notify($1, 'hello')", [channel]);
      equal((await heard).payload, "hello");
    }),
  );
}

async function cancel(place) {
  await using(how(place), (client) =>
    using(how(place), async (other) => {
      const query = client.query(new Query("SELECT pg_sleep(60) AS canceled_pg"));
      const running = new Promise((resolve) => query.on("error", (error) => resolve(error.code)).on("end", () => resolve("no error")));
      const seen = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%canceled_pg' AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()";
      for (let i = 0; i < 200 && !(await other.query(seen)).rows.length; i++) await sleep(20);
      // The driver's own way: a second connection, in clear whatever the first one is, with its key.
      const canceler = new Client(how(place));
      canceler.connection.on("error", () => {});
      canceler.cancel(client, query);
      equal(await running, "57014");
      equal((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
    }),
  );
}

async function pool_of_connections(place) {
  const size = place.mode === "transaction" ? 12 : 4;
  const pools = [SITE.tenant, SITE.neighbour].map((tenant) => new Pool(how(place, tenant, { max: size })));
  try {
    await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const { rows } = await pools[i % 2].query("SELECT note || $1 AS n FROM notes WHERE id = 1", [i]);
        equal(rows[0].n, [SITE.tenant, SITE.neighbour][i % 2] + i);
      }),
    );
  } finally {
    await Promise.all(pools.map((pool) => pool.end()));
  }
}

await run([rows_are_its_own, tenant_in_options, wrong_password, parameters, prepared_reuse, transactions, errors, state_of_a_session, listen_notify, cancel, pool_of_connections]);
