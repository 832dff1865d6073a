//! The sockets of this machine as the kernel shows them: who still holds what, and what is unread.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

/// A TCP socket over IPv4 that listens or is connected, or half so.
#[derive(Debug)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Bytes that have come and that no program has read.
    pub unread: u32,
    /// Bytes that have been sent and that the other end's kernel has not acknowledged.
    pub unacked: u32,
    /// 0 where no program holds it.
    pub inode: u64,
}

/// All sockets save those in TIME_WAIT.
pub fn all() -> Vec<Socket> {
    ask(&request(DUMP, None)).unwrap_or_else(|_| from_proc())
}

/// The socket with these addresses.
pub fn find(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
    let (SocketAddr::V4(a), SocketAddr::V4(b)) = (local, remote) else {
        panic!("only IPv4 here")
    };
    let found = match ask(&request(0, Some((a, b)))) {
        Ok(found) => found,
        Err(Errno::NOENT) => Vec::new(),
        Err(_) => from_proc(),
    };
    let mut found = found.into_iter();
    found.find(|socket| socket.local == local && socket.remote == remote)
}

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const TIME_WAIT: u8 = 6;
const ALL_BUT_TIME_WAIT: u32 = 0xfff & !(1 << TIME_WAIT);
const NO_COOKIE: [u8; 8] = [0xff; 8];
const HEADER: usize = 16;

/// sock_diag(7): a `nlmsghdr` and an `inet_diag_req_v2`.
fn request(flags: u16, of: Option<(SocketAddrV4, SocketAddrV4)>) -> Vec<u8> {
    let unspecified = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let (local, remote) = of.unwrap_or((unspecified, unspecified));
    let wide = |ip: &Ipv4Addr| [&ip.octets()[..], &[0; 12]].concat();
    let body = [
        &[2, 6, 0, 0][..], // AF_INET, IPPROTO_TCP
        &ALL_BUT_TIME_WAIT.to_ne_bytes(),
        &local.port().to_be_bytes(),
        &remote.port().to_be_bytes(),
        &wide(local.ip()),
        &wide(remote.ip()),
        &[0; 4],
        &NO_COOKIE,
    ]
    .concat();
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let header = [
        &length.to_ne_bytes()[..],
        &BY_FAMILY.to_ne_bytes(),
        &(REQUEST | flags).to_ne_bytes(),
        &[0; 8],
    ];
    [&header.concat()[..], &body].concat()
}

fn ask(request: &[u8]) -> Result<Vec<Socket>, Errno> {
    let dump = request[6..8] != REQUEST.to_ne_bytes();
    let kernel: OwnedFd = socket(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&kernel, request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        let (length, _) = recv(&kernel, &mut block[..], RecvFlags::empty())?;
        let mut messages = &block[..length];
        while messages.len() >= HEADER {
            let size = number(&messages[..4]) as usize;
            let message = &messages[HEADER..size];
            match u16::from_ne_bytes([messages[4], messages[5]]) {
                DONE => return Ok(found),
                ERROR => return Err(Errno::from_raw_os_error(-(number(message) as i32))),
                _ => found.push(parse(message)),
            }
            messages = &messages[size.next_multiple_of(4).min(messages.len())..];
        }
        if !dump {
            return Ok(found);
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// An `inet_diag_msg`.
fn parse(message: &[u8]) -> Socket {
    let addr = |port: usize, ip: usize| {
        let octets = [
            message[ip],
            message[ip + 1],
            message[ip + 2],
            message[ip + 3],
        ];
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        SocketAddr::from((octets, port))
    };
    Socket {
        local: addr(4, 8),
        remote: addr(6, 24),
        unread: number(&message[56..]),
        unacked: number(&message[60..]),
        inode: number(&message[68..]).into(),
    }
}

/// The same by proc_pid_net(5), for kernels without sock_diag(7). Slow where many sockets are in
/// TIME_WAIT.
fn from_proc() -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let addr = |text: &str| {
        let (ip, port) = text.split_once(':').unwrap();
        let ip = Ipv4Addr::from(hex(ip).to_le_bytes());
        SocketAddr::from((ip, u16::try_from(hex(port)).unwrap()))
    };
    let lines = table.lines().skip(1);
    let rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|columns| hex(columns[3]) != u32::from(TIME_WAIT))
        .map(|columns| Socket {
            local: addr(columns[1]),
            remote: addr(columns[2]),
            unread: hex(columns[4].split_once(':').unwrap().1),
            unacked: hex(columns[4].split_once(':').unwrap().0),
            inode: columns[9].parse().unwrap(),
        })
        .collect()
}
