//! Sockets of a ring against plain ones: bytes, ends, crowds, and what a dropped socket leaves behind.

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, LocalOptions};

use super::super::{Stream, pace};
use super::buffers::{BUFFER_BYTES, BUFFERS};
use super::{Ring, RingSocket};

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs on a thread with a ring; none on a kernel without.
fn with_ring<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().on_thread_park(Ring::turn).on_thread_unpark(Ring::turn);
    let runtime = builder.build_local(LocalOptions::default()).unwrap();
    if let Err(error) = runtime.block_on(async { Ring::start() }) {
        eprintln!("no io_uring on this machine: {error}");
        return;
    }
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await.unwrap() });
    drop(runtime);
    Ring::stop();
}

/// Both ends of a connection, the second with a bound to its patience.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (listener.accept().unwrap().0, peer)
}

/// One end in the ring, the other an ordinary blocking one.
fn pair() -> (RingSocket, TcpStream) {
    let (accepted, peer) = connected();
    (RingSocket::new(accepted.into()).unwrap(), peer)
}

async fn read(socket: &RingSocket, buf: &mut [u8]) -> std::io::Result<usize> {
    poll_fn(|cx| socket.poll_read(cx, buf)).await
}

async fn write_all(socket: &RingSocket, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = poll_fn(|cx| socket.poll_write(cx, bytes)).await?;
        bytes = &bytes[count..];
    }
    poll_fn(|cx| socket.poll_sent(cx)).await
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect()
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    with_ring(|| async {
        let (socket, mut peer) = pair();
        peer.write_all(b"question").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut buf = [0; 5];
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 5);
        assert_eq!(&buf, b"quest");
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 3);
        assert_eq!(&buf[..3], b"ion");
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 0);
        write_all(&socket, b"answer").await.unwrap();
        poll_fn(|cx| socket.poll_shutdown(cx)).await.unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn much_arrives_whole_and_in_order_both_ways() {
    with_ring(|| async {
        let (socket, mut peer) = pair();
        let sent = pattern(5_000_000);
        let expected = sent.clone();
        let echo = std::thread::spawn(move || {
            let mut received = vec![0; sent.len()];
            peer.read_exact(&mut received).unwrap();
            peer.write_all(&received).unwrap();
        });
        // Pieces of every kind of size: through the ring, and at once.
        let mut rest = &expected[..];
        for size in [1, 100, 7_000, 9_000, BUFFER_BYTES, 40_000].into_iter().cycle() {
            let (piece, others) = rest.split_at(size.min(rest.len()));
            write_all(&socket, piece).await.unwrap();
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        let mut received = Vec::new();
        let mut buf = vec![0; BUFFER_BYTES];
        while received.len() < expected.len() {
            let count = read(&socket, &mut buf).await.unwrap();
            assert!(count > 0, "{} bytes came", received.len());
            received.extend_from_slice(&buf[..count]);
        }
        assert!(received == expected);
        echo.join().unwrap();
    });
}

#[test]
fn a_crowd_that_is_not_read_takes_no_buffer_from_others() {
    with_ring(|| async {
        let crowd: Vec<_> = (0..usize::from(BUFFERS) + 20).map(|_| pair()).collect();
        for (_, peer) in &crowd {
            (&*peer).write_all(b"unread").unwrap();
        }
        let (socket, mut peer) = pair();
        let mut buf = [0; 16];
        for _ in 0..3 {
            peer.write_all(b"read").unwrap();
            assert_eq!(read(&socket, &mut buf).await.unwrap(), 4);
        }
        for (socket, _) in &crowd {
            assert_eq!(read(socket, &mut buf).await.unwrap(), 6);
            assert_eq!(&buf[..6], b"unread");
        }
    });
}

#[test]
fn an_idle_socket_tells_of_its_end_without_being_read() {
    with_ring(|| async {
        let (socket, mut peer) = pair();
        peer.write_all(b"last").unwrap();
        let mut buf = [0; 16];
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 4);
        let is_ready = poll_fn(|cx| Poll::Ready(socket.poll_read_ready(cx).is_ready())).await;
        assert!(!is_ready);
        drop(peer);
        poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 0);
    });
}

#[test]
fn a_dropped_socket_is_closed_with_what_was_written_before() {
    with_ring(|| async {
        let (socket, mut peer) = pair();
        let written = poll_fn(|cx| socket.poll_write(cx, b"goodbye")).await.unwrap();
        assert_eq!(written, 7);
        drop(socket);
        let heard = tokio::task::spawn_blocking(move || {
            let mut heard = String::new();
            peer.read_to_string(&mut heard).unwrap();
            heard
        });
        assert_eq!(heard.await.unwrap(), "goodbye");
    });
}

#[test]
fn a_peer_that_takes_nothing_holds_up_its_writer_and_nobody_else() {
    with_ring(|| async {
        let (socket, peer) = pair();
        let piece = pattern(4_000);
        let mut written = 0;
        // Until the kernel's buffers are full.
        let stuck = loop {
            let wrote = tokio::time::timeout(Duration::from_millis(200), write_all(&socket, &piece)).await;
            match wrote {
                Ok(wrote) => wrote.unwrap(),
                Err(_) => break true,
            }
            written += piece.len();
            assert!(written < 1_000_000_000);
        };
        assert!(stuck);
        let (other, mut other_peer) = pair();
        other_peer.write_all(b"hello").unwrap();
        assert_eq!(read(&other, &mut [0; 16]).await.unwrap(), 5);
        drop(socket);
        // What was under way is cancelled, and the connection closed: the peer comes to its end.
        let heard = tokio::task::spawn_blocking(move || std::io::copy(&mut &peer, &mut std::io::sink()));
        let heard = heard.await.unwrap();
        assert!(heard.is_err() || heard.is_ok_and(|count| count >= written as u64));
    });
}

#[test]
fn a_socket_of_another_thread_fails_and_breaks_nothing() {
    with_ring(|| async {
        let (socket, _peer) = pair();
        let error = std::thread::spawn(move || {
            let cx = std::task::Context::from_waker(std::task::Waker::noop());
            match socket.poll_read(&cx, &mut [0; 4]) {
                Poll::Ready(Err(error)) => error.kind(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(error.join().unwrap(), std::io::ErrorKind::NotConnected);
    });
}

#[test]
fn a_socket_leaves_the_ring_only_while_nothing_is_on_its_way() {
    with_ring(|| async {
        let (socket, mut peer) = pair();
        tokio::task::yield_now().await;
        let fd = socket.release().expect("an idle socket");
        peer.write_all(b"question").unwrap();
        let mut buf = [0; 8];
        TcpStream::from(fd).read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"question");

        let (socket, mut peer) = pair();
        peer.write_all(b"question").unwrap();
        poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
        let socket = socket.release().expect_err("what was received is in the ring");
        assert_eq!(read(&socket, &mut buf).await.unwrap(), 8);
        assert_eq!(&buf, b"question");
        assert_eq!(poll_fn(|cx| socket.poll_write(cx, b"answer")).await.unwrap(), 6);
        let socket = socket.release().expect_err("what is sent is in the ring");
        poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
        assert!(socket.release().is_ok());
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

/// One who waits for a socket that leaves the ring is woken, to wait for it where it is then.
#[test]
fn a_reader_does_not_miss_what_comes_after_its_socket_has_left() {
    with_ring(|| async {
        let (accepted, mut peer) = connected();
        accepted.set_nonblocking(true).unwrap();
        let mut stream = Stream::from_tcp(tokio::net::TcpStream::from_std(accepted).unwrap());
        let (mut polls, mut buf) = (0, [0; 8]);
        let count = poll_fn(|cx| {
            polls += 1;
            // To the ring, and back to tokio; what is awaited comes last.
            pace::begin(polls == 1);
            stream.settle().unwrap();
            let read = stream.poll_read(cx, &mut buf);
            match polls {
                1 => cx.waker().wake_by_ref(),
                2 => peer.write_all(b"question").unwrap(),
                _ => {}
            }
            read
        });
        assert_eq!(count.await.unwrap(), 8);
        pace::end();
    });
}

#[test]
fn bytes_keep_their_order_while_a_socket_goes_to_and_fro() {
    with_ring(|| async {
        let (accepted, mut peer) = connected();
        accepted.set_nonblocking(true).unwrap();
        let mut stream = Stream::from_tcp(tokio::net::TcpStream::from_std(accepted).unwrap());
        let sent = pattern(1_000_000);
        let expected = sent.clone();
        // In pieces of all sizes; each is sent back before the next one comes.
        let echoed = std::thread::spawn(move || {
            let mut rest = &sent[..];
            for size in (1..).step_by(37).map(|size| size % 9000 + 1) {
                let (piece, left) = rest.split_at(size.min(rest.len()));
                peer.write_all(piece).unwrap();
                let mut back = vec![0; piece.len()];
                peer.read_exact(&mut back).unwrap();
                assert_eq!(back, piece);
                rest = left;
                if rest.is_empty() {
                    return;
                }
            }
        });
        let (mut got, mut buf, mut turn) = (Vec::new(), vec![0; 16 * 1024], 0_u32);
        while got.len() < expected.len() {
            turn += 1;
            pace::begin(turn % 3 != 0);
            stream.settle().unwrap();
            let count = poll_fn(|cx| stream.poll_read(cx, &mut buf)).await.unwrap();
            assert!(count > 0);
            got.extend_from_slice(&buf[..count]);
            let mut left = &buf[..count];
            while !left.is_empty() {
                let count = poll_fn(|cx| stream.poll_write(cx, left)).await.unwrap();
                left = &left[count..];
            }
            stream.flush().await.unwrap();
        }
        pace::end();
        assert_eq!(got, expected);
        echoed.join().unwrap();
    });
}
