//! Sockets in states that std cannot make: reset, bound but deaf, with a full backlog.
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{SockFilter, SockRef};

use super::{DEADLINE, sockets};

/// How often something is looked at that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Closes with RST instead of FIN.
pub fn close_with_reset(tcp: &TcpStream) {
    sockopt::set_socket_linger(tcp, Some(Duration::ZERO)).unwrap();
}

/// A port that refuses connections for as long as this lives.
pub struct Vacant {
    pub addr: SocketAddr,
    _socket: OwnedFd,
}

impl Vacant {
    pub fn new() -> Self {
        let socket = bound(0, false);
        let addr = local(&socket);
        Self {
            addr,
            _socket: socket,
        }
    }

    /// The same port, now with a listener.
    pub fn listen(self) -> TcpListener {
        rustix::net::listen(&self._socket, 128).unwrap();
        TcpListener::from(self._socket)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// A socket bound to a port of 127.0.0.1, with or without SO_REUSEPORT.
pub fn bound(port: u16, reuse_port: bool) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseport(&socket, reuse_port).unwrap();
    let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    rustix::net::bind(&socket, &addr).unwrap();
    socket
}

/// Listeners on the same port of each of these addresses.
pub fn on_one_port<const N: usize>(addresses: [Ipv4Addr; N]) -> [TcpListener; N] {
    for _ in 0..100 {
        let first = TcpListener::bind((addresses[0], 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        all.extend(
            addresses[1..]
                .iter()
                .map_while(|addr| TcpListener::bind((*addr, port)).ok()),
        );
        if let Ok(all) = all.try_into() {
            return all;
        }
    }
    panic!("no port is free on all of {addresses:?}");
}

/// A listener of a Unix socket, which is made. A socket is a socket: the type only carries it.
pub fn unix_listener(path: &Path) -> TcpListener {
    OwnedFd::from(UnixListener::bind(path).unwrap()).into()
}

/// What a proxy calls such a listener.
pub fn unix_url(listener: &TcpListener) -> String {
    let addr = SocketAddrUnix::try_from(rustix::net::getsockname(listener).unwrap()).unwrap();
    format!("unix:{}", addr.path().unwrap().to_str().unwrap())
}

fn local(socket: &OwnedFd) -> SocketAddr {
    SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap()
}

/// A listener that accepts nobody and whose queue is full: connecting to it hangs. The streams keep
/// the queue full.
pub fn full_backlog() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::from(bound(0, false));
    let queued = fill_backlog(&listener);
    (listener.local_addr().unwrap(), listener, queued)
}

/// Makes a listener one to which connecting hangs, for as long as the streams live.
pub fn fill_backlog(listener: &TcpListener) -> Vec<TcpStream> {
    rustix::net::listen(listener, 0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
        queued.push(stream);
        assert!(queued.len() < 16, "the queue never fills");
    }
    queued
}

/// From now on the kernel throws away what comes for this socket, or for those accepted from it, and
/// acknowledges nothing: a hole in the network. Only what carries no data passes.
pub fn swallow_data(socket: impl AsFd) {
    let if_longer_than_the_header = [
        SockFilter::new(0x30, 0, 0, 12), // load the byte with the header's length
        SockFilter::new(0x54, 0, 0, 0xf0), // its upper half,
        SockFilter::new(0x74, 0, 0, 2),  // in words of four bytes
        SockFilter::new(0x07, 0, 0, 0),  // keep it
        SockFilter::new(0x80, 0, 0, 0),  // load the length of the whole
        SockFilter::new(0x2d, 0, 1, 0),  // longer:
        SockFilter::new(0x06, 0, 0, 0),  // nothing of it
        SockFilter::new(0x06, 0, 0, 0xffff_ffff), // otherwise all of it
    ];
    let socket = SockRef::from(&socket);
    socket.attach_filter(&if_longer_than_the_header).unwrap();
}

/// The same, and nothing at all passes: a NAT that has forgotten the connection, a cable that is cut.
pub fn swallow_all(socket: impl AsFd) {
    let nothing_of_it = [SockFilter::new(0x06, 0, 0, 0)];
    SockRef::from(&socket)
        .attach_filter(&nothing_of_it)
        .unwrap();
}

/// What comes for this socket is taken again.
pub fn swallow_no_more(socket: impl AsFd) {
    SockRef::from(&socket).detach_filter().unwrap();
}

/// Waits until the peer has sent what can be sent to who does not read: nothing more comes.
pub fn until_stuck(tcp: &TcpStream) {
    const STUCK: u32 = 100;
    let (mut last, mut times) = (0, 0);
    eventually("nothing more comes", || {
        let unread = rustix::io::ioctl_fionread(tcp).unwrap();
        times = if unread == last { times + 1 } else { 0 };
        last = unread;
        thread::sleep(Duration::from_millis(1));
        unread > 0 && times > STUCK
    });
}

/// Waits until `holds`, looking again and again: for what cannot be waited for.
#[track_caller]
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(within(DEADLINE, holds), "not within {DEADLINE:?}: {what}");
}

/// Whether `holds` comes true within `limit`.
pub fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
    true
}

/// Waits until the receive queue of the socket at the other end of `tcp` is empty.
pub fn until_taken(tcp: &TcpStream) {
    let (Ok(own), Ok(other)) = (tcp.local_addr(), tcp.peer_addr()) else {
        return; // closed: nobody will read it
    };
    eventually("the peer reads what was sent", || {
        // In this order: what is on its way may be read next. Closed: nobody will read it.
        sockets::find(own, other).is_none_or(|socket| socket.unacked == 0)
            && sockets::find(other, own).is_none_or(|socket| socket.unread == 0)
    });
}

/// As many connections as are wanted and the limits of this process allow.
pub fn affordable(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let room = limit.maximum.map_or(wanted, |max| max as usize / 2);
    if room < wanted {
        eprintln!("ONLY {room} CONNECTIONS instead of {wanted}: RLIMIT_NOFILE");
    }
    room.min(wanted)
}
