//! A client of a probe: an unmodified driver, and what it was told.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Error, NoTls, SimpleQueryMessage};

/// Most notices and notifications that are kept unread.
const HEARD_MAX: usize = 1024;
/// How long one statement may take to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// A session through the proxy.
pub(super) struct Session {
    pub(super) client: Client,
    heard: mpsc::Receiver<AsyncMessage>,
    driver: JoinHandle<()>,
}

/// What a statement came to.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Whatever was said: rows, notices, notifications and the error.
    pub(super) text: String,
    /// All columns of all rows, NULL as the empty text.
    pub(super) rows: Vec<Vec<String>>,
    /// The error's SQLSTATE, `closed` where the connection is gone, or `timeout`.
    pub(super) code: Option<String>,
}

impl Said {
    /// The first column of the first row.
    pub(super) fn value(&self) -> Option<&str> {
        self.rows.first()?.first().map(String::as_str)
    }

    /// Its first words.
    pub(super) fn summary(&self) -> String {
        self.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect()
    }
}

impl Session {
    /// Logs in.
    pub(super) async fn open(config: &Config) -> Result<Self, Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                // What nobody reads for so long is not missed.
                let _ = tell.try_send(message);
            }
        });
        Ok(Self { client, heard, driver })
    }

    /// Runs statements by the simple protocol.
    pub(super) async fn say(&mut self, sql: &str) -> Said {
        let mut said = Said::default();
        match tokio::time::timeout(PATIENCE, self.client.simple_query(sql)).await {
            Ok(Ok(messages)) => {
                for message in messages {
                    if let SimpleQueryMessage::Row(row) = message {
                        let columns = (0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned());
                        said.rows.push(columns.collect());
                    }
                }
            }
            Ok(Err(error)) => said.failed(&error),
            Err(_) => said.code = Some("timeout".to_owned()),
        }
        said.text.extend(said.rows.iter().map(|row| format!("{}\n", row.join("|"))));
        self.overhear(&mut said);
        said
    }

    /// Runs a statement that must succeed.
    pub(super) async fn must(&mut self, doing: &'static str, sql: &str) -> Result<Said, super::Error> {
        let said = self.say(sql).await;
        match said.code {
            None => Ok(said),
            Some(_) => Err(super::Error::Statement { doing, said: said.summary() }),
        }
    }

    /// The first column of the first row of one that must succeed.
    pub(super) async fn value(&mut self, doing: &'static str, sql: &str) -> Result<String, super::Error> {
        let said = self.must(doing, sql).await?;
        said.value().map(str::to_owned).ok_or(super::Error::Statement { doing, said: "no row".to_owned() })
    }

    /// Copies out.
    pub(super) async fn copy_out(&mut self, sql: &str) -> Said {
        let mut said = Said::default();
        let copied = async {
            let mut rows = pin!(self.client.copy_out(sql).await?);
            while let Some(row) = rows.next().await {
                said.text.push_str(&String::from_utf8_lossy(&row?));
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = copied.await {
            said.failed(&error);
        }
        self.overhear(&mut said);
        said
    }

    /// Copies one line in.
    pub(super) async fn copy_in(&mut self, sql: &str, line: &'static str) -> Said {
        let mut said = Said::default();
        let copied = async {
            let mut sink = pin!(self.client.copy_in::<_, &[u8]>(sql).await?);
            sink.send(line.as_bytes()).await?;
            sink.finish().await
        };
        if let Err(error) = copied.await {
            said.failed(&error);
        }
        self.overhear(&mut said);
        said
    }

    /// Begins to copy in, and sends one line of many.
    pub(super) async fn begin_copy_in(&mut self, sql: &str, line: &'static str) -> Result<(), Error> {
        let sink = self.client.copy_in::<_, &[u8]>(sql).await?;
        let mut sink = Box::pin(sink);
        sink.send(line.as_bytes()).await?;
        // The driver would tell the server that the copy failed; this client is to vanish in the middle of it.
        self.driver.abort();
        Ok(())
    }

    /// Begins to copy out, and reads one row of many.
    pub(super) async fn begin_copy_out(&mut self, sql: &str) -> Result<(), Error> {
        let mut rows = pin!(self.client.copy_out(sql).await?);
        if let Some(row) = rows.next().await {
            row?;
        }
        self.driver.abort();
        Ok(())
    }

    /// What cancels its statement.
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    /// Whether a notification with this payload came by the time that a question was answered.
    pub(super) async fn was_notified(&mut self, payload: &str) -> bool {
        self.say("SELECT 1").await.text.contains(payload)
    }

    /// Ends in order.
    pub(super) async fn leave(self) {
        let Self { client, driver, .. } = self;
        drop(client);
        // A task that was aborted has ended, too.
        let _ = driver.await;
    }

    /// Ends without a word: the socket closes, whatever was under way.
    pub(super) async fn vanish(self) {
        self.driver.abort();
        let _ = self.driver.await;
    }

    fn overhear(&mut self, said: &mut Said) {
        while let Ok(message) = self.heard.try_recv() {
            let line = match message {
                AsyncMessage::Notice(notice) => {
                    format!("{} {}", notice.message(), notice.detail().unwrap_or_default())
                }
                AsyncMessage::Notification(heard) => format!("{} {}", heard.channel(), heard.payload()),
                _ => continue,
            };
            said.text.push_str(&line);
            said.text.push('\n');
        }
    }
}

impl Said {
    fn failed(&mut self, error: &Error) {
        let Some(refusal) = error.as_db_error() else {
            self.code = Some("closed".to_owned());
            return self.text.push_str(&error.to_string());
        };
        self.code = Some(refusal.code().code().to_owned());
        let parts = [Some(refusal.message()), refusal.detail(), refusal.hint(), refusal.where_()];
        self.text = parts.into_iter().flatten().collect::<Vec<_>>().join("\n");
    }
}
