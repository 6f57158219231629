//! Clients of many kinds: each has one session after the other, of a tenant and at a place by chance.

use std::time::Duration;

use tokio::time::sleep;

use crate::Visit;
use crate::proxy::LOGIN_TIMEOUT;
use crate::wire::{Door, Trouble, Wire, bind, close_statement, execute, message, parse, query, startup, sync};

/// Longest time after the login time-out until a connection must be closed.
const GRACE: Duration = Duration::from_secs(15);
const READ: &str = "SELECT note FROM notes";
/// Leaves the twenty oldest rows; whoever is at it already is not waited for.
const TRIM: &str = "DELETE FROM notes WHERE id IN (SELECT id FROM notes ORDER BY id OFFSET 20 FOR UPDATE SKIP LOCKED)";
/// Some megabytes, whose first column is the tenant's.
const LARGE: &str =
    "SELECT note, repeat('x', 2000) FROM (SELECT note FROM notes LIMIT 1) AS n CROSS JOIN generate_series(1, 2500)";

/// What a client does in its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Short,
    Transactions,
    Prepared,
    Settings,
    CopyOut,
    CopyIn,
    SlowReader,
    Connects,
    Vanishing,
    HalfOpen,
    Garbage,
    WrongPassword,
    Canceling,
    Listening,
    Pinning,
    Idling,
    Scraping,
}

impl Kind {
    pub(crate) const ALL: [Self; 17] = [
        Self::Short,
        Self::Transactions,
        Self::Prepared,
        Self::Settings,
        Self::CopyOut,
        Self::CopyIn,
        Self::SlowReader,
        Self::Connects,
        Self::Vanishing,
        Self::HalfOpen,
        Self::Garbage,
        Self::WrongPassword,
        Self::Canceling,
        Self::Listening,
        Self::Pinning,
        Self::Idling,
        Self::Scraping,
    ];

    /// Whether its sessions can be had only where connections are kept for a session.
    pub(crate) const fn needs_session_mode(self) -> bool {
        matches!(self, Self::Listening)
    }

    /// Whether it mostly waits: a few of its clients are enough, and they would keep many connections.
    pub(crate) const fn is_slow(self) -> bool {
        matches!(self, Self::HalfOpen | Self::Garbage | Self::Idling | Self::Scraping | Self::SlowReader)
    }
}

/// Some milliseconds.
async fn pause(from: u64, to: u64) {
    sleep(Duration::from_millis(rand::random_range(from..to))).await;
}

/// The same session, where this error is what it should end in.
fn expect<T>(outcome: Result<T, Trouble>, sqlstate: &str, what: &str) -> Result<(), Trouble> {
    match outcome {
        Ok(_) => Err(Trouble::Wrong(format!("{what} was not refused with {sqlstate}"))),
        Err(trouble) if trouble.sqlstate() == Some(sqlstate) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}

impl Visit<'_> {
    /// One session of a kind.
    pub(crate) async fn session(self, kind: Kind) -> Result<(), Trouble> {
        match kind {
            Kind::Short => self.short().await,
            Kind::Transactions => self.transactions().await,
            Kind::Prepared => self.prepared().await,
            Kind::Settings => self.settings().await,
            Kind::CopyOut => self.copy_out().await,
            Kind::CopyIn => self.copy_in().await,
            Kind::SlowReader => self.slow_reader().await,
            Kind::Connects => self.connects().await,
            Kind::Vanishing => self.vanishing().await,
            Kind::HalfOpen => self.half_open().await,
            Kind::Garbage => self.garbage().await,
            Kind::WrongPassword => self.wrong_password().await,
            Kind::Canceling => self.canceling().await,
            Kind::Listening => self.listening().await,
            Kind::Pinning => self.pinning().await,
            Kind::Idling => self.idling().await,
            Kind::Scraping => self.scraping().await,
        }
    }

    fn user(self) -> String {
        format!("app@{}", self.tenant.slug)
    }

    async fn login(self) -> Result<Wire, Trouble> {
        self.login_by(&self.door()).await
    }

    async fn login_by(self, door: &Door) -> Result<Wire, Trouble> {
        Wire::login(door, &self.user(), self.module.name, &self.tenant.password()).await
    }

    /// An answer whose rows must all be the tenant's, and of which there must be one at least.
    fn check(self, rows: &[Vec<String>]) -> Result<(), Trouble> {
        let slug = self.tenant.slug;
        if let Some(row) = rows.iter().find(|row| row.first().is_none_or(|note| note != slug)) {
            return Err(Trouble::Foreign { slug: slug.to_owned(), row: row.join(", ").chars().take(100).collect() });
        }
        if rows.is_empty() {
            return Err(Trouble::Wrong(format!("{slug} has no rows in {}", self.module.name)));
        }
        self.soak.tally.answered();
        Ok(())
    }

    async fn read(self, wire: &mut Wire) -> Result<(), Trouble> {
        self.check(&wire.ask(READ).await?)
    }

    /// Connect, ask, leave.
    pub(crate) async fn once(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        self.read(&mut wire).await?;
        wire.leave().await
    }

    async fn short(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        for _ in 0..30 {
            self.read(&mut wire).await?;
            pause(1, 20).await;
        }
        expect(wire.ask("SELECT 1/0").await, "22012", "a division by zero")?;
        self.read(&mut wire).await?;
        wire.leave().await
    }

    async fn transactions(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        for turn in 0..10 {
            wire.ask("BEGIN").await?;
            wire.ask(&format!("INSERT INTO notes (note) VALUES ('{}')", self.tenant.slug)).await?;
            self.read(&mut wire).await?;
            pause(1, 10).await;
            match turn % 3 {
                0 => wire.ask("COMMIT").await?,
                1 => wire.ask("ROLLBACK").await?,
                _ => {
                    expect(wire.ask("SELECT nosuch FROM notes").await, "42703", "a column that is not there")?;
                    expect(wire.ask(READ).await, "25P02", "a query in a failed transaction")?;
                    wire.ask("ROLLBACK").await?
                }
            };
        }
        wire.ask(TRIM).await?;
        wire.leave().await
    }

    async fn prepared(self) -> Result<(), Trouble> {
        let (mut wire, slug) = (self.login().await?, self.tenant.slug);
        let sql = "SELECT note FROM notes WHERE note = $1";
        wire.send(&[parse("mine", sql), sync()].concat()).await?;
        wire.rows().await?;
        for _ in 0..10 {
            let one = [bind("mine", slug), execute(), sync()].concat();
            let unnamed = [parse("", sql), bind("", slug), execute(), sync()].concat();
            wire.send(&[one.clone(), unnamed, one].concat()).await?;
            for _ in 0..3 {
                self.check(&wire.rows().await?)?;
            }
            pause(1, 20).await;
        }
        wire.send(&[bind("nosuch", slug), execute(), sync()].concat()).await?;
        expect(wire.rows().await, "26000", "a statement that was not prepared")?;
        wire.send(&[close_statement("mine"), sync()].concat()).await?;
        wire.rows().await?;
        wire.leave().await
    }

    async fn settings(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        let memory = format!("{}kB", rand::random_range(1000..1024));
        wire.ask(&format!("SET work_mem = '{memory}'")).await?;
        for _ in 0..10 {
            self.read(&mut wire).await?;
            let shown = wire.ask("SHOW work_mem").await?;
            if shown != [[memory.as_str()]] {
                return Err(Trouble::Wrong(format!("work_mem was set to {memory} and is {shown:?}")));
            }
            pause(1, 20).await;
        }
        wire.leave().await
    }

    async fn copy_out(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        for _ in 0..10 {
            self.check(&wire.ask("COPY (SELECT note FROM notes) TO STDOUT").await?)?;
            pause(1, 20).await;
        }
        wire.leave().await
    }

    async fn copy_in(self) -> Result<(), Trouble> {
        let (mut wire, slug) = (self.login().await?, self.tenant.slug);
        if self.module.isolation == "shared" {
            // PostgreSQL refuses COPY into tables with row-level security.
            wire.ask(&format!("INSERT INTO notes (note) SELECT '{slug}' FROM generate_series(1, 100)")).await?;
        } else {
            wire.send(&query("COPY notes (note) FROM STDIN")).await?;
            wire.until(b'G').await?;
            let lines = format!("{slug}\n").repeat(20);
            for _ in 0..10 {
                wire.send(&message(b'd', lines.as_bytes())).await?;
                pause(1, 5).await;
            }
            if rand::random() {
                wire.send(&message(b'c', b"")).await?;
                wire.rows().await?;
            } else {
                wire.send(&message(b'f', b"no more\0")).await?;
                expect(wire.rows().await, "57014", "a COPY that the client gave up")?;
            }
        }
        self.read(&mut wire).await?;
        wire.ask(TRIM).await?;
        wire.leave().await
    }

    async fn slow_reader(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        // Little fits into the kernel's buffers, so that the proxy has to wait.
        let _ = wire.socket(|socket| socket.set_recv_buffer_size(16 << 10));
        wire.send(&query(LARGE)).await?;
        let mut rows = 0;
        loop {
            let message = wire.receive().await?;
            match message.kind {
                b'D' => self.check(&[message.columns()])?,
                b'E' => return Err(message.refusal()),
                b'Z' => break,
                _ => continue,
            }
            rows += 1;
            if rows % 50 == 0 {
                pause(10, 40).await;
            }
        }
        if rows != 2500 {
            return Err(Trouble::Wrong(format!("{rows} rows of 2500")));
        }
        wire.leave().await
    }

    async fn connects(self) -> Result<(), Trouble> {
        for _ in 0..10 {
            self.once().await?;
        }
        Ok(())
    }

    /// Goes without a word, in the middle of something. What it wrote must never be seen.
    async fn vanishing(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        wire.ask("BEGIN").await?;
        wire.ask("INSERT INTO notes (note) VALUES ('of a client that vanished')").await?;
        match rand::random_range(0..6) {
            0 => drop(wire),
            1 => wire.reset(),
            2 => {
                let _ = wire.stream.shutdown().await;
                if !wire.ends_within(GRACE).await {
                    return Err(Trouble::Wrong("a client that closed its side was kept".to_owned()));
                }
            }
            3 => {
                let half = query("SELECT 'this is never said to its end'");
                wire.send(&half[..20]).await?;
            }
            4 => {
                wire.send(&query(LARGE)).await?;
                wire.until(b'D').await?;
                wire.reset();
            }
            _ => {
                wire.send(&[parse("", READ), query("SELECT pg_sleep(1)")].concat()).await?;
                wire.reset();
            }
        }
        Ok(())
    }

    /// Says half of something and waits for the proxy to lose its patience.
    async fn half_open(self) -> Result<(), Trouble> {
        let mut wire = Wire::open(self.door().address).await?;
        let packet = startup(&self.user(), self.module.name);
        match rand::random_range(0..3) {
            0 => {}
            1 => wire.send(&packet[..packet.len() / 2]).await?,
            _ => wire.send(&packet).await?,
        }
        tokio::select! {
            ended = wire.ends_within(LOGIN_TIMEOUT + GRACE) => {
                if !ended {
                    return Err(Trouble::Wrong("half a login was kept beyond its time-out".to_owned()));
                }
            }
            () = self.soak.end_of_round() => {}
        }
        Ok(())
    }

    async fn garbage(self) -> Result<(), Trouble> {
        let mut wire = Wire::open(self.door().address).await?;
        let mut noise = vec![0; rand::random_range(1..5000)];
        rand::fill(&mut noise[..]);
        match rand::random_range(0..5) {
            0 => wire.send(&noise).await?,
            1 => wire.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await?,
            2 => wire.send(&[&8_u32.to_be_bytes()[..], &[4, 210, 22, 47], &[0x16, 3, 1], &noise].concat()).await?,
            3 => wire.send(&[startup(&self.user(), self.module.name), noise].concat()).await?,
            _ => {
                wire = self.login().await?;
                wire.send(&message(b'!', b"what?")).await?;
                return expect(wire.rows().await, "08P01", "a message of no type");
            }
        }
        tokio::select! {
            ended = wire.ends_within(LOGIN_TIMEOUT + GRACE) => {
                if !ended {
                    return Err(Trouble::Wrong("garbage was listened to beyond the login time-out".to_owned()));
                }
            }
            () = self.soak.end_of_round() => {}
        }
        Ok(())
    }

    async fn wrong_password(self) -> Result<(), Trouble> {
        let user = match rand::random_range(0..10) {
            0 => self.user(),
            1..5 => format!("nobody@{}", self.tenant.slug),
            // Few enough that each is counted for itself: more from one address and all logins that fail are taken for one.
            _ => format!("app@nowhere{}", rand::random_range(0..40)),
        };
        let outcome = Wire::login(&self.door(), &user, self.module.name, "wrong").await;
        pause(20, 200).await;
        expect(outcome, "28P01", "a wrong password")
    }

    async fn canceling(self) -> Result<(), Trouble> {
        let door = self.door();
        let mut wire = self.login_by(&door).await?;
        let key = wire.key();
        wire.send(&query("SELECT pg_sleep(30)")).await?;
        let outcome = {
            let mut rows = std::pin::pin!(wire.rows());
            loop {
                tokio::select! {
                    outcome = &mut rows => break outcome,
                    // One that comes too early is of no use, as with PostgreSQL.
                    () = pause(100, 400) => Wire::cancel(door.address, &key).await?,
                }
            }
        };
        expect(outcome, "57014", "a statement that was cancelled")?;
        // The last request may have come after the end of what it was for: then it is the next statement's.
        match wire.ask(READ).await {
            Err(trouble) if trouble.sqlstate() == Some("57014") => self.read(&mut wire).await?,
            outcome => self.check(&outcome?)?,
        }
        wire.leave().await
    }

    async fn listening(self) -> Result<(), Trouble> {
        let (mut wire, slug) = (self.login().await?, self.tenant.slug);
        wire.ask(&format!("LISTEN news_{slug}")).await?;
        for _ in 0..5 {
            wire.send(&query(&format!("NOTIFY news_{slug}, '{slug}'"))).await?;
            let (mut heard, mut ready) = (false, false);
            while !(heard && ready) {
                let message = wire.receive().await?;
                match message.kind {
                    b'A' if message.body[4..] != *format!("news_{slug}\0{slug}\0").as_bytes() => {
                        let row = String::from_utf8_lossy(&message.body[4..]).into_owned();
                        return Err(Trouble::Foreign { slug: slug.to_owned(), row });
                    }
                    b'A' => heard = true,
                    b'E' => return Err(message.refusal()),
                    b'Z' => ready = true,
                    _ => {}
                }
            }
            self.soak.tally.answered();
            pause(50, 300).await;
        }
        if rand::random() {
            wire.ask("UNLISTEN *").await?;
            return wire.leave().await;
        }
        wire.reset();
        Ok(())
    }

    /// Has state that keeps its connection, and takes it away, or leaves with it.
    async fn pinning(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        wire.ask("CREATE TEMPORARY TABLE mine AS SELECT note FROM notes").await?;
        for _ in 0..5 {
            self.check(&wire.ask("SELECT note FROM mine").await?)?;
            pause(1, 50).await;
        }
        if rand::random() {
            wire.ask("DROP TABLE mine").await?;
            self.read(&mut wire).await?;
        }
        wire.leave().await
    }

    /// Leaves a transaction open until the proxy ends it.
    async fn idling(self) -> Result<(), Trouble> {
        let mut wire = self.login().await?;
        wire.ask("BEGIN").await?;
        self.read(&mut wire).await?;
        expect(wire.until(b'Z').await, "25P03", "an idle transaction")
    }

    async fn scraping(self) -> Result<(), Trouble> {
        for path in ["/metrics", "/api/state", "/health/tenants"] {
            self.proxy.http(path).await.map_err(|error| Trouble::Wrong(format!("{error:#}")))?;
        }
        pause(500, 3000).await;
        Ok(())
    }
}
