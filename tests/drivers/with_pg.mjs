// node-postgres: unnamed and named statements, portals kept open over several Syncs, streams, COPY, cancel requests, a pool.
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ROWS, SITE, driver, equal, failure, insert, login, run, sleep, throughPgtenant } from "./checks.mjs";

const { Client, Pool, Query } = driver("pg");
const Cursor = driver("pg-cursor");
const QueryStream = driver("pg-query-stream");
const { from: copyFrom, to: copyTo } = driver("pg-copy-streams");

function how(place, tenant = SITE.tenant, more = {}) {
  const ssl = place.tls ? { rejectUnauthorized: false } : false;
  const { schema, ...settings } = login(place, tenant);
  return { ...settings, ssl, ...more };
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

async function every_type(place) {
  await using(how(place), async (client) => {
    const sent = [true, -7, "1099511627776", 1.5, "-12345.678900", "grüße", Buffer.from([0, 255]), new Date("2026-11-26T01:02:03Z"), [[1, null], [3, 4]], ["a,b", 'c"d', null], { a: [1, null] }, null];
    const kinds = ["bool", "int", "bigint", "float8", "numeric", "text", "bytea", "timestamptz", "int[]", "text[]", "jsonb", "date"];
    const text = `SELECT ${kinds.map((kind, i) => `$${i + 1}::${kind}`).join(", ")}`;
    for (const more of [{}, { name: "every" }, { name: "every" }]) {
      equal((await client.query({ text, values: sent, rowMode: "array", ...more })).rows, [sent]);
    }
  });
}

async function cursors_and_streams(place) {
  await using(how(place), async (client) => {
    const cursor = client.query(new Cursor("SELECT generate_series(1, $1::int) i", [1000]));
    equal((await cursor.read(10)).map((row) => row.i), Array.from({ length: 10 }, (_, i) => i + 1));
    equal((await cursor.read(100)).length, 100);
    await cursor.close();
    let count = 0;
    for await (const _ of client.query(new QueryStream("SELECT generate_series(1, 2500) i", [], { batchSize: 100 }))) count++;
    equal(count, 2500);
    const failing = client.query(new Cursor("SELECT 1 / (3 - i) FROM generate_series(1, 10) i"));
    equal(await failure(failing.read(10)), "22012");
    equal((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  });
}

async function copies(place) {
  await using(how(place), async (client) => {
    await client.query("BEGIN");
    await client.query("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP");
    await pipeline(Readable.from(Array.from({ length: 20_000 }, (_, i) => `${i}\trow\n`)), client.query(copyFrom("COPY t FROM STDIN")));
    let lines = 0;
    for await (const chunk of client.query(copyTo("COPY t TO STDOUT"))) lines += String(chunk).split("\n").length - 1;
    equal(lines, 20_000);
    equal(await failure(pipeline(Readable.from(["none\n"]), client.query(copyFrom("COPY t FROM STDIN")))), "22P02");
    await client.query("ROLLBACK");
    equal((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  });
}

async function time_outs(place) {
  await using(how(place, SITE.tenant, { statement_timeout: 200, lock_timeout: 100, application_name: "drivers" }), async (client) => {
    for (let i = 0; i < 2; i++) equal(await failure(client.query("SELECT pg_sleep(20)")), "57014");
    equal((await client.query("SELECT current_setting('application_name') a, current_setting('lock_timeout') l")).rows, [{ a: "drivers", l: "100ms" }]);
  });
}

async function queued_without_waiting(place) {
  await using(how(place), async (client) => {
    const answers = await Promise.all([
      client.query("BEGIN"),
      client.query("INSERT INTO notes (id) VALUES ($1)", [950]),
      client.query("SELECT count(*)::int n FROM notes WHERE id = $1", [950]),
      failure(client.query("SELECT 1/0")),
      failure(client.query("SELECT 1")),
      client.query("ROLLBACK"),
      client.query("SELECT count(*)::int n FROM notes WHERE id = 950"),
    ]);
    equal([answers[2].rows[0].n, answers[3], answers[4], answers[6].rows[0].n], [1, "22012", "25P02", 0]);
  });
}

async function process_id(place) {
  await using(how(place), async (client) => {
    equal((await client.query("SELECT pg_backend_pid() AS pid")).rows, [{ pid: client.processID }]);
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
  const channel = `pg_${place.name}_${place.tls}`.toLowerCase();
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

await run([
  rows_are_its_own, throughPgtenant(tenant_in_options), wrong_password, parameters, every_type, prepared_reuse, transactions, errors, cursors_and_streams, copies,
  time_outs, queued_without_waiting, state_of_a_session, listen_notify, cancel, pool_of_connections, process_id,
]);
