// pgjdbc: the extended protocol throughout, statements named after a few uses, portals that are fetched in pieces, savepoints of its
// own around statements (autosave), COPY, large objects by the fast path, cancel requests by time-outs.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class WithJdbc {
    static final int ROWS = 3;
    static final long LIMIT_SECONDS = 30;

    record Login(String user, String password, String database) {}

    record Place(String name, String isolation, String mode, boolean tls, String host, String port, Login tenant, Login neighbour) {
        static Place of(String line) {
            String[] p = line.split("\t", -1);
            return new Place(p[0], p[1], p[2], p[3].equals("True"), p[4], p[5], new Login(p[6], p[7], p[8]), new Login(p[9], p[10], p[11]));
        }

        Connection connect(Login login, String... more) throws SQLException {
            Properties given = new Properties();
            given.put("user", login.user());
            given.put("password", login.password());
            given.put("sslmode", tls ? "require" : "disable");
            given.put("connectTimeout", "20");
            for (int i = 0; i < more.length; i += 2) given.put(more[i], more[i + 1]);
            return DriverManager.getConnection("jdbc:postgresql://" + host + ":" + port + "/" + login.database(), given);
        }

        Connection connect(String... more) throws SQLException {
            return connect(tenant, more);
        }
    }

    interface Check {
        void run(Place place) throws Exception;
    }

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) throw new AssertionError(found + " is not " + expected);
    }

    static Object one(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            return one(statement, values);
        }
    }

    static Object one(PreparedStatement statement, Object... values) throws SQLException {
        for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static void run(Connection connection, String... texts) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String text : texts) statement.execute(text);
        }
    }

    interface Action {
        void run() throws Exception;
    }

    static void fails(String state, Action action) throws Exception {
        try {
            action.run();
        } catch (SQLException error) {
            equal(error.getSQLState(), state);
            return;
        }
        throw new AssertionError("no error");
    }

    static void rows_are_its_own(Place place) throws Exception {
        for (Login login : List.of(place.neighbour(), place.tenant())) {
            try (Connection connection = place.connect(login)) {
                run(connection, "DELETE FROM notes");
                String whose = login == place.tenant() ? "tenant" : "neighbour";
                one(connection, "INSERT INTO notes (id, note) SELECT i, ? FROM generate_series(1, " + ROWS + ") i RETURNING id", whose);
            }
        }
        for (Login login : List.of(place.tenant(), place.neighbour())) {
            try (Connection connection = place.connect(login); Statement statement = connection.createStatement()) {
                ResultSet rows = statement.executeQuery("SELECT note FROM notes");
                for (int i = 0; i < ROWS; i++) {
                    equal(rows.next(), true);
                    equal(rows.getString(1), login == place.tenant() ? "tenant" : "neighbour");
                }
                equal(rows.next(), false);
            }
        }
    }

    static void wrong_password(Place place) throws Exception {
        fails("28P01", () -> place.connect("password", "wrong").close());
    }

    static void every_type(Place place) throws Exception {
        for (String binary : List.of("true", "false")) {
            try (Connection connection = place.connect("binaryTransfer", binary, "prepareThreshold", "1")) {
                String sql = "SELECT ?::bool, ?::int, ?::bigint, ?::float8, ?::numeric, ?::text, ?::bytea, ?::int[], ?::timestamptz, ?::date";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    Timestamp time = Timestamp.valueOf("2026-11-26 01:02:03.123456");
                    byte[] bytes = {0, -1};
                    for (int round = 0; round < 4; round++) {
                        statement.setBoolean(1, true);
                        statement.setInt(2, -7);
                        statement.setLong(3, 1L << 40);
                        statement.setDouble(4, 1.5);
                        statement.setBigDecimal(5, new BigDecimal("-12345.678900"));
                        statement.setString(6, "grüße");
                        statement.setBytes(7, bytes);
                        statement.setArray(8, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
                        statement.setTimestamp(9, time);
                        statement.setNull(10, Types.DATE);
                        try (ResultSet row = statement.executeQuery()) {
                            row.next();
                            equal(row.getBoolean(1), true);
                            equal(row.getInt(2), -7);
                            equal(row.getLong(3), 1L << 40);
                            equal(row.getDouble(4), 1.5);
                            equal(row.getBigDecimal(5), new BigDecimal("-12345.678900"));
                            equal(row.getString(6), "grüße");
                            equal(row.getBytes(7), bytes);
                            equal(row.getArray(8).getArray(), new Integer[] {1, null, 3});
                            equal(row.getTimestamp(9), time);
                            equal(row.getDate(10), null);
                        }
                    }
                }
            }
        }
    }

    static void large_values(Place place) throws Exception {
        try (Connection connection = place.connect()) {
            equal(one(connection, "SELECT length(?)", "y".repeat(5_000_000)), 5_000_000);
            equal(((String) one(connection, "SELECT repeat('x', ?)", 5_000_000)).length(), 5_000_000);
        }
    }

    static void prepared_reuse(Place place) throws Exception {
        try (Connection first = place.connect("prepareThreshold", "2"); Connection second = place.connect("prepareThreshold", "-1")) {
            PreparedStatement one = first.prepareStatement("SELECT note || ? FROM notes WHERE id = 1");
            PreparedStatement two = second.prepareStatement("SELECT id * 100 + ? FROM notes WHERE id = 2");
            for (int i = 0; i < 20; i++) {
                equal(one(one, "" + i), "tenant" + i);
                equal(one(two, i), 200 + i);
            }
        }
        // More than the driver keeps, so that it closes the oldest.
        try (Connection connection = place.connect("prepareThreshold", "1", "preparedStatementCacheQueries", "16")) {
            for (int i = 0; i < 120; i++) equal(one(connection, "SELECT " + i + " + ?", 1), i + 1);
            for (int i = 0; i < 120; i++) equal(one(connection, "SELECT " + i % 24 + " + ?", 1), i % 24 + 1);
        }
    }

    static void query_modes(Place place) throws Exception {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection connection = place.connect("preferQueryMode", mode)) {
                for (int i = 0; i < 8; i++) {
                    try (Statement statement = connection.createStatement()) {
                        equal(statement.execute("SELECT 1; SELECT 2"), true);
                        equal(statement.getMoreResults(), true);
                        statement.getResultSet().next();
                        equal(statement.getResultSet().getInt(1), 2);
                    }
                    equal(one(connection, "SELECT ?::int + 1", i), i + 1);
                }
            }
        }
    }

    static void transactions(Place place) throws Exception {
        for (String autosave : List.of("never", "always", "conservative")) {
            try (Connection connection = place.connect("autosave", autosave, "prepareThreshold", "2")) {
                for (int level : new int[] {Connection.TRANSACTION_SERIALIZABLE, Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_READ_COMMITTED}) {
                    connection.setAutoCommit(false);
                    connection.setTransactionIsolation(level);
                    run(connection, "INSERT INTO notes (id) VALUES (900)");
                    Savepoint savepoint = connection.setSavepoint("s");
                    run(connection, "INSERT INTO notes (id) VALUES (901)");
                    fails("22012", () -> one(connection, "SELECT 1 / ?", 0));
                    if (autosave.equals("always")) equal(one(connection, "SELECT count(*) FROM notes WHERE id >= 900"), 2L);
                    else fails("25P02", () -> one(connection, "SELECT 1"));
                    connection.rollback(savepoint);
                    equal(one(connection, "SELECT count(*) FROM notes WHERE id >= 900"), 1L);
                    connection.rollback();
                    equal(one(connection, "SELECT count(*) FROM notes WHERE id >= 900"), 0L);
                    connection.commit();
                }
                connection.setReadOnly(true);
                fails("25006", () -> run(connection, "INSERT INTO notes (id) VALUES (900)"));
                connection.rollback();
                connection.setReadOnly(false);
                connection.setAutoCommit(true);
            }
        }
    }

    static void fetched_in_pieces(Place place) throws Exception {
        try (Connection connection = place.connect("defaultRowFetchSize", "100")) {
            connection.setAutoCommit(false);
            try (Statement one = connection.createStatement(); Statement two = connection.createStatement()) {
                ResultSet rows = one.executeQuery("SELECT generate_series(1, 1050)");
                ResultSet others = two.executeQuery("SELECT generate_series(1, 1050)");
                int count = 0;
                while (rows.next()) {
                    others.next();
                    equal(rows.getInt(1), others.getInt(1));
                    count++;
                }
                equal(count, 1050);
            }
            try (Statement scrolling = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
                ResultSet rows = scrolling.executeQuery("SELECT generate_series(1, 50)");
                rows.absolute(40);
                equal(rows.getInt(1), 40);
            }
            connection.rollback();
        }
    }

    static void batches(Place place) throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection connection = place.connect("reWriteBatchedInserts", rewrite)) {
                connection.setAutoCommit(false);
                try (PreparedStatement statement = connection.prepareStatement("INSERT INTO notes (id, note) VALUES (?, ?)", new String[] {"number"})) {
                    for (int i = 0; i < 2000; i++) {
                        statement.setInt(1, 1000 + i);
                        statement.setString(2, "x".repeat(50));
                        statement.addBatch();
                    }
                    equal(statement.executeBatch().length, 2000);
                    int keys = 0;
                    for (ResultSet made = statement.getGeneratedKeys(); made.next(); ) keys++;
                    equal(keys, 2000);
                }
                try (Statement statement = connection.createStatement()) {
                    statement.addBatch("UPDATE notes SET note = 'y' WHERE id = 1000");
                    statement.addBatch("SELECT_nothing");
                    statement.addBatch("UPDATE notes SET note = 'z' WHERE id = 1000");
                    fails("42601", statement::executeBatch);
                }
                connection.rollback();
                equal(one(connection, "SELECT count(*) FROM notes"), (long) ROWS);
                connection.commit();
            }
        }
    }

    static void copies(Place place) throws Exception {
        try (Connection connection = place.connect()) {
            connection.setAutoCommit(false);
            run(connection, "CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP");
            var copies = connection.unwrap(PGConnection.class).getCopyAPI();
            String rows = IntStream.range(0, 20_000).mapToObj(i -> i + "\trow\n").collect(Collectors.joining());
            equal(copies.copyIn("COPY t FROM STDIN", new ByteArrayInputStream(rows.getBytes(StandardCharsets.UTF_8))), 20_000L);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            equal(copies.copyOut("COPY t TO STDOUT", out), 20_000L);
            equal(out.toString(StandardCharsets.UTF_8).lines().count(), 20_000L);
            fails("22P02", () -> copies.copyIn("COPY t FROM STDIN", new ByteArrayInputStream("none\n".repeat(50_000).getBytes(StandardCharsets.UTF_8))));
            connection.rollback();
            run(connection, "CREATE TEMP TABLE t (a int) ON COMMIT DROP");
            copies.copyIn("COPY t FROM STDIN").cancelCopy();
            connection.rollback();
            equal(one(connection, "SELECT 1"), 1);
            connection.commit();
        }
    }

    static void large_objects(Place place) throws Exception {
        try (Connection connection = place.connect()) {
            for (int round = 0; round < 2; round++) {
                connection.setAutoCommit(false);
                LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
                long made = objects.createLO();
                try (LargeObject object = objects.open(made)) {
                    object.write("large".repeat(20_000).getBytes(StandardCharsets.UTF_8));
                    object.seek64(5, LargeObject.SEEK_SET);
                    equal(object.read(5), "large".getBytes(StandardCharsets.UTF_8));
                    equal(object.size64(), 100_000L);
                }
                connection.rollback();
            }
        }
    }

    static void state_of_a_session(Place place) throws Exception {
        try (Connection connection = place.connect("ApplicationName", "drivers", "options", "-c statement_timeout=12345")) {
            equal(one(connection, "SHOW application_name"), "drivers");
            equal(one(connection, "SHOW statement_timeout"), "12345ms");
            run(connection, "SET work_mem = '123kB'", "CREATE TEMP TABLE t AS SELECT 5 AS a");
            for (int i = 0; i < 8; i++) equal(one(connection, "SELECT a || current_setting('work_mem') FROM t"), "5123kB");
            connection.setClientInfo("ApplicationName", "another");
            equal(one(connection, "SHOW application_name"), "another");
        }
        try (Connection connection = place.connect()) {
            equal(one(connection, "SELECT to_regclass('t') IS NULL AND current_setting('work_mem') <> '123kB'"), true);
        }
    }

    /** As Npgsql, HikariCP's users and JDBC pools do between two borrowers. */
    static void resets_of_pools(Place place) throws Exception {
        try (Connection connection = place.connect("prepareThreshold", "1")) {
            for (String reset : List.of("DISCARD ALL",
                    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP")) {
                run(connection, "SET work_mem = '123kB'");
                if (reset.contains(";")) run(connection, reset.split("; "));
                else run(connection, reset);
                equal(one(connection, "SELECT current_setting('work_mem') <> '123kB'"), true);
                equal(one(connection, "SELECT note FROM notes WHERE id = ?", 1), "tenant");
                equal(connection.isValid(5), true);
            }
        }
    }

    /** After ALTER TABLE the driver prepares again by itself. */
    static void schema_changes(Place place) throws Exception {
        try (Connection connection = place.connect("prepareThreshold", "1")) {
            run(connection, "CREATE TEMP TABLE changing (a int)", "INSERT INTO changing VALUES (1)");
            try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM changing")) {
                for (int i = 0; i < 4; i++) equal(one(statement), 1);
                run(connection, "ALTER TABLE changing ADD COLUMN b int DEFAULT 2");
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    equal(rows.getInt("b"), 2);
                }
            }
        }
    }

    static void listen_notify(Place place) throws Exception {
        String channel = ("jdbc_" + place.name().replace(' ', '_')).toLowerCase();
        try (Connection listener = place.connect(); Connection sender = place.connect()) {
            run(listener, "LISTEN " + channel);
            one(sender, "SELECT pg_notify(?, 'hello')", channel);
            PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(20_000);
            equal(heard.length, 1);
            equal(heard[0].getParameter(), "hello");
        }
    }

    static void cancel(Place place) throws Exception {
        try (Connection connection = place.connect(); Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            statement.setQueryTimeout(0);
            ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
            try {
                timer.schedule(() -> { statement.cancel(); return null; }, 300, TimeUnit.MILLISECONDS);
                fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            } finally {
                timer.shutdown();
            }
            equal(one(connection, "SELECT 1"), 1);
        }
    }

    static void many_clients(Place place) throws Exception {
        int count = place.mode().equals("transaction") ? 16 : 6;
        ExecutorService threads = Executors.newFixedThreadPool(count);
        try {
            List<Callable<Object>> works = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                boolean own = i % 2 == 0;
                works.add(() -> {
                    try (Connection connection = place.connect(own ? place.tenant() : place.neighbour());
                            PreparedStatement statement = connection.prepareStatement("SELECT note FROM notes WHERE id = ?")) {
                        for (int n = 0; n < 15; n++) equal(one(statement, 1), own ? "tenant" : "neighbour");
                    }
                    return null;
                });
            }
            for (Future<Object> done : threads.invokeAll(works)) done.get();
        } finally {
            threads.shutdown();
        }
    }

    static void process_id(Place place) throws Exception {
        try (Connection connection = place.connect()) {
            equal(one(connection, "SELECT pg_backend_pid()"), connection.unwrap(PGConnection.class).getBackendPID());
        }
    }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static {
        CHECKS.put("rows_are_its_own", WithJdbc::rows_are_its_own);
        CHECKS.put("wrong_password", WithJdbc::wrong_password);
        CHECKS.put("every_type", WithJdbc::every_type);
        CHECKS.put("large_values", WithJdbc::large_values);
        CHECKS.put("prepared_reuse", WithJdbc::prepared_reuse);
        CHECKS.put("query_modes", WithJdbc::query_modes);
        CHECKS.put("transactions", WithJdbc::transactions);
        CHECKS.put("fetched_in_pieces", WithJdbc::fetched_in_pieces);
        CHECKS.put("batches", WithJdbc::batches);
        CHECKS.put("copies", WithJdbc::copies);
        CHECKS.put("large_objects", WithJdbc::large_objects);
        CHECKS.put("state_of_a_session", WithJdbc::state_of_a_session);
        CHECKS.put("resets_of_pools", WithJdbc::resets_of_pools);
        CHECKS.put("schema_changes", WithJdbc::schema_changes);
        CHECKS.put("listen_notify", WithJdbc::listen_notify);
        CHECKS.put("cancel", WithJdbc::cancel);
        CHECKS.put("many_clients", WithJdbc::many_clients);
        CHECKS.put("process_id", WithJdbc::process_id);
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }

    static String shown(Throwable error) {
        String line = Arrays.stream(error.getStackTrace()).filter(frame -> frame.getClassName().startsWith("WithJdbc"))
                .filter(frame -> CHECKS.containsKey(frame.getMethodName()) || frame.getMethodName().startsWith("lambda"))
                .map(frame -> " in line " + frame.getLineNumber()).findFirst().orElse("");
        String state = error instanceof SQLException sql ? " " + sql.getSQLState() : "";
        return error.getClass().getSimpleName() + state + line + ": " + error.getMessage();
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService runner = Executors.newCachedThreadPool();
        for (String line : System.getenv("DRIVERS_LINES").split("\n")) {
            Place place = Place.of(line);
            for (var check : CHECKS.entrySet()) {
                String error = null;
                try {
                    runner.submit(() -> { check.getValue().run(place); return null; }).get(LIMIT_SECONDS, TimeUnit.SECONDS);
                } catch (ExecutionException failure) {
                    error = shown(failure.getCause());
                } catch (TimeoutException late) {
                    error = "still running after " + LIMIT_SECONDS + " s";
                }
                System.out.println("{\"place\": " + quoted(place.name()) + ", \"check\": " + quoted(check.getKey()) + ", \"error\": "
                        + (error == null ? "null" : quoted(error)) + "}");
            }
        }
        System.exit(0);
    }
}
