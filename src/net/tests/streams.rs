//! Streams over real sockets: plain and TLS, moved between runtimes, half closed, and with peers that do not read.

use super::*;

#[tokio::test]
async fn a_plain_stream_carries_bytes_both_ways_and_ends_by_halves() {
    let (mut client, mut server) = tcp_pair().await;
    assert!(matches!(client.peer(), Peer::Tcp(address) if address.ip().is_loopback()));
    assert!(client.tls().is_none());
    send(&mut client, b"question").await;
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut server, 8).await, b"question");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    send(&mut server, b"answer").await;
    assert_eq!(receive(&mut client, 6).await, b"answer");
}

#[tokio::test]
async fn a_unix_socket_is_found_in_its_directory_by_the_port() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join(".s.PGSQL.6543")).unwrap();
    let (client, accepted) = tokio::join!(connect_tcp(directory.path().to_str().unwrap(), 6543), listener.accept());
    let (mut client, mut server) = (client.unwrap(), Stream::from_unix(accepted.unwrap().0));
    assert_eq!(client.peer(), &Peer::Unix);
    send(&mut client, b"hello").await;
    assert_eq!(receive(&mut server, 5).await, b"hello");
}

#[tokio::test]
async fn a_connection_tries_every_address_and_tells_the_last_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Where localhost is ::1 first, the second address has the listener.
    let client = connect_tcp("localhost", port).await.unwrap();
    assert!(matches!(client.peer(), Peer::Tcp(_)));
    drop(listener);
    assert_eq!(connect_tcp("127.0.0.1", port).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn what_was_read_too_far_is_read_again_wherever_the_stream_goes() {
    let (mut client, mut server) = tcp_pair().await;
    send(&mut client, b"first, second").await;
    let first = receive(&mut server, 13).await;
    server.unread(&first[7..]);
    poll_fn(|cx| server.poll_read_ready(cx)).await.unwrap();
    let mut server = server.detach().unwrap().attach();
    assert_eq!(receive(&mut server, 2).await, b"se");
    send(&mut client, b", third").await;
    assert_eq!(receive(&mut server, 11).await, b"cond, third");
}

#[tokio::test]
async fn nothing_said_in_clear_gets_into_a_tls_session() {
    let (tls, _) = Pki::new().server();
    let (_client, mut server) = tcp_pair().await;
    server.unread(b"in clear");
    let refused = server.accept_tls(&[], &tls).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn both_ends_of_tls_agree_on_name_protocol_and_end_point() {
    let pki = Pki::new();
    let (mut client, mut server) = tls_pair(&pki).await;
    let (at_client, at_server) = (client.tls().unwrap().clone(), server.tls().unwrap().clone());
    assert_eq!(at_server.server_name.as_deref(), Some("localhost"));
    assert_eq!(at_server.alpn.as_deref(), Some(b"postgresql".as_slice()));
    assert_eq!(at_server.server_end_point.as_ref().map(Vec::len), Some(32));
    assert!(!at_server.client_certificate);
    assert_eq!(at_client, at_server);
    send(&mut client, b"question").await;
    assert_eq!(receive(&mut server, 8).await, b"question");
    send(&mut server, b"answer").await;
    assert_eq!(receive(&mut client, 6).await, b"answer");
}

#[tokio::test]
async fn tls_begins_from_bytes_that_were_read_already() {
    let pki = Pki::new();
    let (tls, ca) = pki.server();
    let (client, mut server) = tcp_pair().await;
    let config = client_config(SslMode::VerifyCa, Some(&ca)).unwrap().unwrap();
    let client = tokio::spawn(client.connect_tls(server_name("127.0.0.1").unwrap(), config));
    let mut prefix = [0; 5];
    AsyncReadExt::read_exact(&mut server, &mut prefix).await.unwrap();
    assert_eq!(prefix[0], 0x16);
    let mut server = server.accept_tls(&prefix, &tls).await.unwrap();
    let mut client = client.await.unwrap().unwrap();
    assert_eq!(server.tls().unwrap().server_name, None, "an address is no server name");
    send(&mut client, b"x").await;
    assert_eq!(receive(&mut server, 1).await, b"x");
}

#[tokio::test]
async fn tls_over_a_unix_socket_works_too() {
    let pki = Pki::new();
    let (tls, ca) = pki.server();
    let (a, b) = UnixStream::pair().unwrap();
    let config = client_config(SslMode::VerifyFull, Some(&ca)).unwrap().unwrap();
    let (client, server) = tokio::join!(
        Stream::from_unix(a).connect_tls(server_name("localhost").unwrap(), config),
        Stream::from_unix(b).accept_tls(&[], &tls)
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    send(&mut server, b"x").await;
    assert_eq!(receive(&mut client, 1).await, b"x");
}

#[tokio::test]
async fn tls_has_no_second_layer() {
    let pki = Pki::new();
    let (tls, _) = pki.server();
    let (_client, server) = tls_pair(&pki).await;
    let refused = server.accept_tls(&[], &tls).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn close_notify_ends_one_direction_and_leaves_the_other() {
    let pki = Pki::new();
    let (mut client, mut server) = tls_pair(&pki).await;
    send(&mut client, b"last words").await;
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut server, 10).await, b"last words");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
    send(&mut server, b"answer").await;
    assert_eq!(receive(&mut client, 6).await, b"answer");
    let refused = client.write_all(b"more").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let pki = Pki::new();
    let (mut client, mut server) = tls_pair(&pki).await;
    send(&mut client, b"last words").await;
    drop(client);
    assert_eq!(receive(&mut server, 10).await, b"last words");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_an_error_and_not_data() {
    let pki = Pki::new();
    let (tls, _) = pki.server();
    let (mut client, server) = tcp_pair().await;
    send(&mut client, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(server.accept_tls(&[], &tls).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);

    let (client, server) = tcp_pair().await;
    drop(client);
    assert_eq!(server.accept_tls(&[], &tls).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_forged_record_is_an_error_after_the_honest_bytes_before_it() {
    let pki = Pki::new();
    let (tls, ca) = pki.server();
    let (client, relay_in) = tcp_pair().await;
    let (mut relay_out, server) = tcp_pair().await;
    let config = client_config(SslMode::VerifyFull, Some(&ca)).unwrap().unwrap();
    let client = tokio::spawn(async move {
        let mut client = client.connect_tls(server_name("localhost").unwrap(), config).await.unwrap();
        send(&mut client, b"honest").await;
        client
    });
    let server = tokio::spawn(async move { server.accept_tls(&[], &tls).await.unwrap() });
    // A relay in the middle, until the client has said its word; then a record of its own.
    let mut relay_in = relay_in;
    let client = tokio::select! {
        client = client => client.unwrap(),
        _ = tokio::io::copy_bidirectional(&mut relay_in, &mut relay_out) => unreachable!("nobody closed"),
    };
    drop(client);
    let mut rest = Vec::new();
    relay_in.read_to_end(&mut rest).await.unwrap();
    rest.extend_from_slice(b"\x17\x03\x03\x00\x20");
    rest.extend_from_slice(&[0x55; 32]);
    send(&mut relay_out, &rest).await;
    let mut server = server.await.unwrap();
    assert_eq!(receive(&mut server, 6).await, b"honest");
    for _ in 0..2 {
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn plaintext_that_was_decrypted_is_never_waited_for() {
    let pki = Pki::new();
    let (mut client, mut server) = tls_pair(&pki).await;
    // Several records in one read of the socket, taken out byte by byte.
    for word in [b"abc".as_slice(), b"def", b"ghi"] {
        send(&mut client, word).await;
    }
    drop(client);
    let mut read = Vec::new();
    loop {
        poll_fn(|cx| server.poll_read_ready(cx)).await.unwrap();
        // What is ready must be there at once.
        let mut byte = [0];
        let result = poll_fn(|cx| Poll::Ready(server.poll_read(cx, &mut byte))).await;
        match result {
            Poll::Ready(Ok(0)) => break,
            Poll::Ready(Ok(_)) => read.push(byte[0]),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => panic!("ready, and then not"),
        }
    }
    assert_eq!(read, b"abcdefghi");
}

#[tokio::test]
async fn a_quiet_tls_stream_is_not_ready() {
    let pki = Pki::new();
    let (client, mut server) = tls_pair(&pki).await;
    let ready = poll_fn(|cx| Poll::Ready(server.poll_read_ready(cx))).await;
    assert!(ready.is_pending());
    drop(client);
    tokio::time::timeout(PATIENCE, poll_fn(|cx| server.poll_read_ready(cx))).await.unwrap().unwrap();
}

/// Writes until the peer's silence stops it; how much went in.
async fn write_until_stuck(stream: &mut Stream, chunk: &[u8]) -> usize {
    let mut written = 0;
    let mut refusals = 0;
    // A socket takes a little more after its first refusal, when its peer's kernel has read; then no more.
    while refusals < 100 {
        match poll_fn(|cx| Poll::Ready(stream.poll_write(cx, chunk))).await {
            Poll::Ready(n) => {
                written += n.unwrap();
                refusals = 0;
            }
            Poll::Pending => {
                refusals += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    written
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_within_bounds() {
    let pki = Pki::new();
    let (mut client, mut server) = tls_pair(&pki).await;
    let chunk = pattern(1 << 20);
    let written = write_until_stuck(&mut client, &chunk[..]).await;
    // What the two kernels hold is theirs; the stream itself holds at most one write of 32 KiB.
    assert!(written < 64 << 20, "{written} bytes accepted");
    let single = client_write(&mut server, &chunk).await;
    assert!(single <= 32 << 10, "one write took {single} bytes");
}

async fn client_write(stream: &mut Stream, bytes: &[u8]) -> usize {
    poll_fn(|cx| stream.poll_write(cx, bytes)).await.unwrap()
}

/// Sends and receives at one time, as a relay does, with a reader that takes little at a time.
async fn exchange(stream: &mut Stream, outgoing: &[u8], expected: usize) -> Vec<u8> {
    let (mut sent, mut incoming, mut buf) = (0, Vec::with_capacity(expected), vec![0; 1021]);
    poll_fn(|cx| {
        let mut budget = 64;
        loop {
            let mut moved = false;
            if sent < outgoing.len()
                && let Poll::Ready(n) = stream.poll_write(cx, &outgoing[sent..])
            {
                sent += n.unwrap();
                moved = true;
            }
            if incoming.len() < expected
                && let Poll::Ready(n) = stream.poll_read(cx, &mut buf)
            {
                let n = n.unwrap();
                assert_ne!(n, 0, "an early end");
                incoming.extend_from_slice(&buf[..n]);
                moved = true;
            }
            if sent == outgoing.len() && incoming.len() == expected {
                return stream.poll_flush(cx).map(Result::unwrap);
            }
            if !moved {
                return Poll::Pending;
            }
            budget -= 1;
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    })
    .await;
    incoming
}

#[tokio::test]
async fn big_writes_both_ways_with_slow_readers_neither_lock_up_nor_mix_bytes() {
    let pki = Pki::new();
    let data = pattern(6 << 20);
    let mut reversed = data.clone();
    reversed.reverse();
    for (mut client, mut server) in [tcp_pair().await, tls_pair(&pki).await] {
        let both = async {
            tokio::join!(exchange(&mut client, &data, reversed.len()), exchange(&mut server, &reversed, data.len()))
        };
        let (at_client, at_server) = tokio::time::timeout(PATIENCE, both).await.unwrap();
        assert!(at_client == reversed && at_server == data);
    }
}

/// Runs a future on a single-threaded runtime of its own, in a thread of its own.
fn elsewhere<F>(make: impl FnOnce() -> F + Send + 'static) -> std::thread::JoinHandle<F::Output>
where
    F: Future,
    F::Output: Send + 'static,
{
    std::thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(make()))
}

#[test]
fn a_stream_moves_between_runtimes_in_the_middle_of_its_session() {
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pki = Pki::new();
    for tls in [false, true] {
        let (mut client, mut server) =
            here.block_on(async { if tls { tls_pair(&pki).await } else { tcp_pair().await } });
        // Bytes are under way, some read, some decrypted and not read, when the server's end moves.
        here.block_on(async {
            send(&mut client, b"before after").await;
            assert_eq!(receive(&mut server, 6).await, b"before");
        });
        let detached = server.detach().unwrap();
        assert_eq!(detached.tls().is_some(), tls);
        let moved = elsewhere(move || async move {
            let mut server = detached.attach();
            assert_eq!(receive(&mut server, 6).await, b" after");
            send(&mut server, &pattern(1 << 20)).await;
            assert_eq!(receive(&mut server, 3).await, b"ack");
            assert_eq!(server.tls().is_some(), tls);
            server.detach().unwrap()
        });
        here.block_on(async {
            assert_eq!(receive(&mut client, 1 << 20).await, pattern(1 << 20));
            send(&mut client, b"ack").await;
        });
        let detached = moved.join().unwrap();
        here.block_on(async {
            let mut server = detached.attach();
            send(&mut server, b"home").await;
            assert_eq!(receive(&mut client, 4).await, b"home");
        });
    }
}
