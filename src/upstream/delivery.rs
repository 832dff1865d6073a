//! How far the request of a failed attempt came: whether it may have been processed, and billed.
//!
//! The kernel knows which bytes have left it and which the peer's kernel has acknowledged: TCP_INFO
//! tells both of a connection in any state. SIOCOUTQ and SIOCOUTQNSD would tell the bytes not
//! acknowledged and not sent, but not the one thing that makes a missing acknowledgement mean anything:
//! that the bytes were sent again and again. Bytes in flight are not acknowledged either.
use std::io;
use std::time::Duration;

use crate::net::buffer::LARGE_BYTES;
use crate::net::deadline::Deadline;
use crate::net::tcp::{Outgoing, Tcp};
use crate::telemetry::clock::Moment;
use crate::telemetry::words::Delivery;

/// So often in a row the kernel has to have sent the same bytes anew, each time waiting twice as long,
/// 1.4 seconds in all at least, before it counts as lost that none was acknowledged. Once or twice
/// happens where a network holds packets up.
const REPEATS_MIN: u8 = 3;

/// The same before a connection is given up that may be there still: 3 seconds in all at least. A queue on
/// the way may hold packets up for two, and deliver them then.
const LOST_REPEATS_MIN: u8 = 4;

/// After so long the kernel may have sent the same bytes that often. Most requests are answered by then,
/// and their connections never looked at.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Between further looks: there are none at connections whose peer was heard of.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// More than the clock of [`Outgoing::silence`] is wrong by.
const TICK: Duration = Duration::from_millis(50);

/// More than a single write holds: a block of a request, or the records of one.
const WRITE_BYTES_MAX: u64 = 2 * LARGE_BYTES as u64;

/// How far a request of `total` bytes came that was put on a connection. The connection must not have
/// been closed yet: closing sends what is still there. Of the request, or of its records, the kernel has
/// taken `taken` bytes by all writes that have ended. `read` and `written` are what ended the attempt.
///
/// `NotAcked` is said where the request cannot have been processed whole, provided that the connection
/// is aborted now; where that is not certain, it is `Acked`. There is one exception: a network that
/// delivers all our bytes and loses all that comes back, acknowledgements and response alike, or holds
/// either up for as long, cannot be told from one that loses both.
pub(super) fn of(
    tcp: &Tcp,
    (taken, total): (u64, u64),
    read: &io::Result<Option<usize>>,
    written: Option<&io::Error>,
) -> Delivery {
    match written {
        // The write has ended without taking the rest.
        Some(error) if error.kind() != io::ErrorKind::TimedOut => match taken {
            0 => Delivery::NotSent,
            _ => Delivery::NotAcked,
        },
        // A write that is under way, or was given up, may have taken the rest in this very moment, but
        // not what is behind it.
        _ if taken + WRITE_BYTES_MAX < total => Delivery::NotAcked,
        _ => {
            // Also where the kernel itself has given up, by TCP_USER_TIMEOUT.
            let in_silence = match read {
                Ok(read) => read.is_none(),
                Err(error) => error.kind() == io::ErrorKind::TimedOut,
            };
            in_kernel(tcp, in_silence)
        }
    }
}

/// The same of a request that the kernel may have taken whole. `in_silence`: the attempt ended because
/// nothing was heard of the peer.
///
/// What a reset or an end leaves unacknowledged says nothing: either may overtake the acknowledgement of
/// what was read, and a reset bears none that the kernel looks at.
fn in_kernel(tcp: &Tcp, in_silence: bool) -> Delivery {
    match tcp.outgoing() {
        // One may be our own FIN.
        Ok(outgoing) if outgoing.unsent > 1 => Delivery::NotAcked,
        Ok(outgoing) if in_silence && outgoing.repeats >= REPEATS_MIN => Delivery::NotAcked,
        _ => Delivery::Acked,
    }
}

/// Waits until the connection of a request that `began` then turns out to have been lost before:
/// the way to the peer has gone, a NAT has forgotten it, or we have moved. Of that nobody is told; TCP
/// itself would go on for many minutes. A peer that was heard of since is there, and is never judged
/// again, however long it takes: also one that takes no bytes but answers when it is asked for room.
pub(super) async fn lost(tcp: &Tcp, began: Moment) {
    let mut look = Deadline::at(began + FIRST_LOOK).passed();
    loop {
        (&mut look).await;
        look = match tcp.outgoing() {
            Ok(outgoing) if is_in_doubt(&outgoing, began.elapsed()) => {
                // Where our address has gone, nothing is even sent: the kernel only goes on trying to.
                if outgoing.repeats.max(outgoing.probes) >= LOST_REPEATS_MIN {
                    return;
                }
                Deadline::after(LOOK_AGAIN).passed()
            }
            _ => Deadline::NEVER.passed(),
        };
    }
}

/// Whether something is under way and nothing was heard of the peer for as long.
fn is_in_doubt(outgoing: &Outgoing, since: Duration) -> bool {
    outgoing.unacked + outgoing.unsent > 0 && outgoing.silence + TICK >= since
}

#[cfg(test)]
#[allow(
    clippy::disallowed_types,
    reason = "the other end is the kernel of these tests"
)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use bytes::Bytes;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    use socket2::{SockFilter, SockRef};

    use super::*;
    use crate::net::buffer::Buffer;
    use crate::net::driver::run;
    use crate::net::sleep;

    /// More than a socket takes whose peer does not read.
    const FLOOD_BYTES: usize = 64 << 20;
    const SMALL_BYTES: usize = 1000;

    async fn pair(user_timeout: Duration) -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        sockopt::set_socket_recv_buffer_size(&listener, LARGE_BYTES).expect("it has one");
        let addr = listener.local_addr().expect("bound");
        let ours = Tcp::connect(addr, user_timeout).await.expect("it listens");
        let (theirs, _) = listener.accept().expect("connected");
        (ours, theirs)
    }

    /// Hands over what the kernel takes; how much that is.
    fn hand_over(tcp: &Tcp, bytes: usize) -> usize {
        let mut blocks = [Bytes::from(vec![b'x'; bytes])].into();
        tcp.try_write(&mut blocks).expect("the peer is there");
        usize::try_from(tcp.handed()).expect("it fits")
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..30_000 {
            if holds() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("not within 30 s: {what}");
    }

    fn both(tcp: &Tcp) -> [Delivery; 2] {
        [in_kernel(tcp, true), in_kernel(tcp, false)]
    }

    /// From now on the kernel takes nothing for this socket, and says nothing.
    fn deafen(socket: &TcpStream) {
        let drop_all = [SockFilter::new(0x06, 0, 0, 0)]; // return 0: so many bytes are kept
        let filtered = SockRef::from(socket).attach_filter(&drop_all);
        filtered.expect("anybody may filter what comes to himself");
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_the_peers_kernel_has_is_acked_whether_it_is_read_or_not() {
        run(async {
            for unread in [false, true] {
                let (ours, mut theirs) = pair(MINUTE).await;
                assert_eq!(hand_over(&ours, SMALL_BYTES), SMALL_BYTES);
                if !unread {
                    theirs.read_exact(&mut [0; SMALL_BYTES]).expect("all came");
                }
                theirs.shutdown(Shutdown::Write).expect("connected");
                until("FIN", || ours.has_hung_up()).await;
                assert_eq!(both(&ours), [Delivery::Acked; 2]);
                drop(theirs);
                if unread {
                    until("RST", || ours.is_broken()).await;
                }
                assert_eq!(both(&ours), [Delivery::Acked; 2]);
                ours.close_both();
                assert_eq!(both(&ours), [Delivery::Acked; 2]);
            }
        });
    }

    #[test]
    fn what_has_not_left_is_not_acked_whatever_ended_the_connection() {
        run(async {
            let (ours, theirs) = pair(MINUTE).await;
            assert!(hand_over(&ours, FLOOD_BYTES) < FLOOD_BYTES);
            assert_eq!(both(&ours), [Delivery::NotAcked; 2]);
            theirs.shutdown(Shutdown::Write).expect("connected");
            until("FIN", || ours.has_hung_up()).await;
            assert_eq!(both(&ours), [Delivery::NotAcked; 2]);
            ours.close_write();
            assert_eq!(both(&ours), [Delivery::NotAcked; 2]);
            drop(theirs); // with bytes unread: RST
            until("RST", || ours.is_broken()).await;
            assert_eq!(both(&ours), [Delivery::NotAcked; 2]);
            assert!(ours.has_failed(), "asking leaves the error in its place");
        });
    }

    #[test]
    fn what_was_aborted_never_arrives() {
        run(async {
            let (ours, mut theirs) = pair(MINUTE).await;
            let handed = hand_over(&ours, FLOOD_BYTES);
            ours.abort();
            let mut came = Vec::new();
            let end = theirs.read_to_end(&mut came).expect_err("it is reset");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
            assert!(came.len() < handed, "{} of {handed}", came.len());
        });
    }

    #[test]
    fn silence_counts_only_after_the_same_bytes_were_sent_again_and_again() {
        run(async {
            let (ours, theirs) = pair(MINUTE).await;
            deafen(&theirs);
            hand_over(&ours, SMALL_BYTES);
            let repeats = || ours.outgoing().expect("it is TCP").repeats;
            assert_eq!(both(&ours), [Delivery::Acked; 2], "still on its way");
            until("it is sent again", || repeats() >= REPEATS_MIN).await;
            assert_eq!(both(&ours), [Delivery::NotAcked, Delivery::Acked]);
            SockRef::from(&theirs).detach_filter().expect("it has one");
            until("it is acknowledged", || repeats() == 0).await;
            assert_eq!(both(&ours), [Delivery::Acked; 2]);
        });
    }

    #[test]
    fn a_connection_that_the_kernel_gave_up_ended_in_silence() {
        run(async {
            let (ours, theirs) = pair(Duration::from_secs(2)).await;
            deafen(&theirs);
            hand_over(&ours, SMALL_BYTES);
            ours.readable().await.expect("it ends");
            let read = ours.try_read(&mut Buffer::small());
            let kind = read.as_ref().map_err(io::Error::kind);
            assert_eq!(kind, Err(ErrorKind::TimedOut));
            assert_eq!(of(&ours, (1, 1), &read, None), Delivery::NotAcked);
        });
    }

    #[test]
    fn a_write_that_ended_says_what_it_left_and_one_that_did_not_what_is_behind_it() {
        run(async {
            let (ours, _theirs) = pair(MINUTE).await;
            let total = 10 * WRITE_BYTES_MAX;
            let closed = io::Error::from(ErrorKind::BrokenPipe);
            let slow = io::Error::from(ErrorKind::TimedOut);
            for (taken, written, expected) in [
                (0, Some(&closed), Delivery::NotSent),
                (1, Some(&closed), Delivery::NotAcked),
                (total - 1, Some(&closed), Delivery::NotAcked),
                (0, Some(&slow), Delivery::NotAcked),
                (total - WRITE_BYTES_MAX - 1, Some(&slow), Delivery::NotAcked),
                (total - WRITE_BYTES_MAX, Some(&slow), Delivery::Acked),
                (total - WRITE_BYTES_MAX - 1, None, Delivery::NotAcked),
                (total - WRITE_BYTES_MAX, None, Delivery::Acked),
                (total, None, Delivery::Acked),
                (2 * total, None, Delivery::Acked), // records are longer
            ] {
                let told = of(&ours, (taken, total), &Ok(Some(0)), written);
                assert_eq!(told, expected, "{taken}, {written:?}");
            }
        });
    }

    #[test]
    fn what_is_handed_over_is_counted_whichever_way_it_goes() {
        run(async {
            let (ours, _theirs) = pair(MINUTE).await;
            assert_eq!(hand_over(&ours, SMALL_BYTES), SMALL_BYTES);
            let block = Bytes::from_static(b"12345");
            ours.write(block, MINUTE).await.expect("room");
            assert_eq!(ours.handed(), SMALL_BYTES as u64 + 5);
            let mut buffer = Buffer::large();
            buffer.as_vec().resize(LARGE_BYTES, b'x');
            ours.write_buffer(&mut buffer, MINUTE).await.expect("room");
            assert_eq!(ours.handed(), (SMALL_BYTES + 5 + LARGE_BYTES) as u64);
            ours.close_write();
            let written = ours.write(Bytes::from_static(b"x"), MINUTE).await;
            assert!(written.is_err());
            assert_eq!(ours.handed(), (SMALL_BYTES + 5 + LARGE_BYTES) as u64);
        });
    }

    #[test]
    fn where_nothing_can_be_known_it_may_have_been_processed() {
        run(async {
            let (family, flags) = (AddressFamily::UNIX, SocketFlags::NONBLOCK);
            let pair = socketpair(family, SocketType::STREAM, flags, None);
            let (ours, _theirs) = pair.expect("a pair");
            let ours = Tcp::new(ours).expect("a socket");
            hand_over(&ours, FLOOD_BYTES);
            assert!(ours.outgoing().is_err());
            assert_eq!(both(&ours), [Delivery::Acked; 2]);
        });
    }
}
