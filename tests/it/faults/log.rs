//! A log that nobody takes: a pipe that is full, a disk that is full. Clients are served all the same.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::served::{Served, serve};
use crate::support::{Tenant, Wire, world};

/// Clients, one after the other: each makes some lines of log.
const LOGINS: usize = 50;

/// Many clients log in, ask and leave.
async fn serves(served: &Served, tenant: &Tenant) {
    for _ in 0..LOGINS {
        let mut client = Wire::login(served.address, tenant, "crm").await;
        assert_eq!(client.ask("SELECT note FROM notes").await, tenant.slug);
    }
}

/// A pipe with no room for another byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    (reader, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_and_the_process_ends_while_nobody_reads_the_log() {
    let tenant = world().await.tenant_of("log_unread", &["crm"]).await;
    let (reader, writer) = full_pipe();
    let served = serve(writer).await;
    serves(&served, &tenant).await;
    served.ends_well().await;
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_when_somebody_reads_it_again_to_its_last_line() {
    let tenant = world().await.tenant_of("log_late", &["crm"]).await;
    let (mut reader, writer) = full_pipe();
    let served = serve(writer).await;
    serves(&served, &tenant).await;
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        text
    });
    served.ends_well().await;
    let text = reading.join().expect("read");
    assert!(text.contains("listening"), "what was said first is there");
    assert!(text.trim_end().lines().any(|line| line.ends_with("stopped")), "the last line, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_and_the_process_ends_while_the_disk_of_the_log_is_full() {
    let tenant = world().await.tenant_of("log_full", &["crm"]).await;
    let served = serve(File::options().write(true).open("/dev/full").unwrap()).await;
    serves(&served, &tenant).await;
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_and_the_process_ends_when_the_logs_reader_is_gone() {
    let tenant = world().await.tenant_of("log_closed", &["crm"]).await;
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let served = serve(writer).await;
    serves(&served, &tenant).await;
    served.ends_well().await;
}
