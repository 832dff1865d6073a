//! The end of listening: nobody new comes to these listeners, and whoever has begun to come gets in.
//!
//! Closing a listener resets what waits in its queue, and every handshake that is under way. So the
//! kernel is first told to send new clients to a successor on the same port, if there is one, and what
//! comes all the same is thrown away unanswered: its client asks again a second later, and finds the
//! successor or a closed port. When nothing can come any more the queues are emptied, and only then the
//! listeners closed.
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener as StdTcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use crate::net::listener::{Listeners, Whose};
use crate::net::socket::{Instruction, filter, steer, steer_no_more};

/// How long a handshake may take that is under way. It is waited for only where there is one. A client
/// whose SYN or SYN-ACK is lost sends again after a second.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// How often the handshakes are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Throws a first segment away: of SYN (0x02) and ACK (0x10), in byte 13 of the header, it has only SYN.
const NO_FIRST_SEGMENTS: [Instruction; 5] = [
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, u32::MAX),
];
/// The states of a handshake that is under way, and of a listener, in proc_pid_net(5).
const SYN_RECV: &str = "03";
const LISTEN: &str = "0A";

/// Holds the listeners of an address for their end.
pub struct Shutter(Vec<StdTcpListener>);

impl Shutter {
    /// Over `listeners`; over nothing where they are not ours to shut.
    pub fn new(listeners: &Listeners) -> io::Result<Self> {
        let ours = match listeners.whose {
            Whose::Inherited => &[][..],
            Whose::Ours | Whose::Beside => &listeners.all,
        };
        let held = ours.iter().map(StdTcpListener::try_clone);
        held.collect::<io::Result<_>>().map(Self)
    }

    /// Lets new clients go to who has begun to listen after us. `false`: nobody ever has.
    ///
    /// The kernel numbers listeners in the order in which they came, so that the successor's follow ours.
    /// Where others were there before us that is wrong and does no harm: what comes to ours is thrown away.
    pub fn steer_away(&self) -> bool {
        // It fails where there is but one listener, so nobody to steer to.
        let steered = |first| steer(first, &[(0x06, 0, 0, self.0.len() as u32)]).is_ok();
        self.0.first().is_some_and(steered)
    }

    /// Whether others listen on the port.
    pub fn has_company(&self) -> bool {
        let port = self.0.first().and_then(|first| first.local_addr().ok());
        let all = port.and_then(|addr| remotes(addr.port(), LISTEN).ok());
        all.is_some_and(|all| all.len() > self.0.len())
    }

    /// Returns when nothing can come to the queues any more, after `limit` at the latest. The listeners are
    /// still open: now the queues can be emptied. Not for a core, which would wait here.
    #[allow(clippy::disallowed_methods, reason = "an ordinary thread waits")]
    pub fn keep_out(&self, limit: Duration) {
        let addr = self.0.first().and_then(|first| first.local_addr().ok());
        let Some(addr) = addr else { return };
        self.steer_away();
        for listener in &self.0 {
            let _ = filter(listener, &NO_FIRST_SEGMENTS); // then the last to come may be reset
        }
        let start = Instant::now();
        let mut begun: Option<HashSet<String>> = None;
        while start.elapsed() < limit.min(HANDSHAKE_MAX) {
            thread::sleep(LOOK_AGAIN);
            // Where they cannot be seen they are waited for.
            let Ok(now) = remotes(addr.port(), SYN_RECV) else {
                continue;
            };
            let mut now: HashSet<_> = now.into_iter().collect();
            // Those that were not there before are the successor's.
            now.retain(|client| begun.as_ref().is_none_or(|begun| begun.contains(client)));
            if now.is_empty() {
                return;
            }
            begun = Some(now);
        }
    }

    /// Refuses connections from now on. Closing the descriptors would do so only when the last of them
    /// is, which a ring may hold for good.
    pub fn close(&self) {
        let Some((first, others)) = self.0.split_first() else {
            return;
        };
        for listener in others {
            let _ = shutdown(listener, Shutdown::Both);
        }
        // Or it would steer on when the numbers mean others.
        let _ = steer_no_more(first);
        let _ = shutdown(first, Shutdown::Both);
    }
}

/// The other ends of this machine's sockets of `port` that are in `state`.
fn remotes(port: u16, state: &str) -> io::Result<Vec<String>> {
    let port = format!(":{port:04X}");
    let mut remotes = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let table = match File::open(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {
                continue;
            }
            opened => BufReader::new(opened?),
        };
        for line in table.lines() {
            let line = line?;
            let mut columns = line.split_ascii_whitespace().skip(1);
            if let (Some(local), Some(remote)) = (columns.next(), columns.next())
                && columns.next() == Some(state)
                && local.ends_with(&port)
            {
                remotes.push(remote.to_owned());
            }
        }
    }
    Ok(remotes)
}
