//! Greedy peers: each takes what it can get until the siege is over, and says what it got.
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;

/// An attack on what listens at `target`.
pub(super) struct Field<'a> {
    pub(super) target: SocketAddr,
    /// How many of whatever it is.
    pub(super) count: usize,
    /// How long it is going to last.
    pub(super) window: Duration,
    pub(super) over: &'a AtomicBool,
}

pub(super) struct Attack {
    pub(super) name: &'static str,
    /// In full and in quick.
    pub(super) counts: (usize, usize),
    /// It needs a peer of this name.
    pub(super) only: Option<&'static str>,
    run: fn(&Field<'_>) -> io::Result<String>,
}

pub(super) const ATTACKS: &[Attack] = &[
    attack("none", (0, 0), |_| Ok(String::new())),
    attack("heads, a byte at a time", (1000, 50), |field| {
        trickle(
            field,
            "GET /bytes/64 HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        )
    }),
    attack("bodies, a byte at a time", (1000, 50), |field| {
        trickle(field, &post("/bytes/64", 1 << 20))
    }),
    attack("1 GB responses that nobody reads", (32, 4), unread),
    attack(
        "8 MiB requests that the upstream does not read",
        (16, 2),
        deaf,
    ),
    attack("idle connections", (5000, 100), |field| {
        let held = connect_all(field)?;
        wait(field);
        Ok(format!("{} held", held.len()))
    }),
    attack("connection churn", (50_000, 500), churn),
    attack(
        "storms of connections, all reset at once",
        (5000, 100),
        storm,
    ),
    attack("pipelines without a pause", (4, 1), |field| {
        pipeline(field, "/bytes/64")
    }),
    Attack {
        only: Some(crate::report::OURS),
        ..attack("the same, answered by the proxy itself", (4, 1), |field| {
            pipeline(field, "/healthz")
        })
    },
    attack("1 GB downloads at full speed", (4, 1), |field| {
        download(field, "/bytes/1073741824")
    }),
    attack("the same, chunked", (4, 1), |field| {
        download(field, "/bytes/1073741824/chunked")
    }),
];

const BODY_BYTES: usize = 8 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Between two bytes of a slow peer.
const TRICKLE: Duration = Duration::from_millis(200);
/// Between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);
const CHURNERS: usize = 4;
const STORM_THREADS: usize = 8;
/// Requests written at once.
const PIPELINED: usize = 100;
/// Of an attacker: it shares a core with those who measure, and is not to stand in their way.
const NICE: i32 = 10;

const fn attack(
    name: &'static str,
    counts: (usize, usize),
    run: fn(&Field<'_>) -> io::Result<String>,
) -> Attack {
    Attack {
        name,
        counts,
        only: None,
        run,
    }
}

impl Attack {
    /// Attacks until it is over; what was done, in words.
    pub(super) fn run(&self, field: &Field<'_>) -> String {
        // On Linux, that of this thread and those that it starts.
        let _ = rustix::process::nice(NICE);
        let done = (self.run)(field).unwrap_or_else(|error| format!("could not: {error}"));
        wait(field);
        done
    }
}

impl Field<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let conn = TcpStream::connect_timeout(&self.target, CONNECT_MAX)?;
        conn.set_nodelay(true)?;
        // So that nobody waits for a peer when it is over.
        conn.set_read_timeout(Some(CONNECT_MAX))?;
        conn.set_write_timeout(Some(CONNECT_MAX))?;
        Ok(conn)
    }
}

fn wait(field: &Field<'_>) {
    while !field.is_over() {
        thread::sleep(LOOK);
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, body_bytes: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\n\r\n")
}

fn connect_all(field: &Field<'_>) -> io::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    while held.len() < field.count && !field.is_over() {
        held.push(field.connect()?);
    }
    Ok(held)
}

/// Sends `start` on every connection and then one byte after the other, on a new one where it is closed.
fn trickle(field: &Field<'_>, start: &str) -> io::Result<String> {
    let begin = || -> io::Result<TcpStream> {
        let mut conn = field.connect()?;
        conn.write_all(start.as_bytes())?;
        Ok(conn)
    };
    let mut conns = Vec::new();
    let mut bytes = 0_u64;
    while !field.is_over() {
        // A few at a time, so that the first ones do not wait for the last.
        for _ in 0..field.count.saturating_sub(conns.len()).min(100) {
            conns.push(begin()?);
        }
        conns.retain_mut(|conn| conn.write_all(b"a").is_ok());
        bytes += conns.len() as u64;
        thread::sleep(if conns.len() < field.count {
            LOOK
        } else {
            TRICKLE
        });
    }
    Ok(format!("{bytes} bytes on {} connections", conns.len()))
}

fn unread(field: &Field<'_>) -> io::Result<String> {
    let mut held = connect_all(field)?;
    for (number, conn) in held.iter_mut().enumerate() {
        let framing = if number % 2 == 0 { "" } else { "/chunked" };
        conn.write_all(get(&format!("/bytes/1073741824{framing}")).as_bytes())?;
    }
    wait(field);
    Ok(format!("{} held", held.len()))
}

fn deaf(field: &Field<'_>) -> io::Result<String> {
    let body = vec![b'x'; BODY_BYTES];
    let mut held = connect_all(field)?;
    let mut sent = 0;
    for conn in &mut held {
        if field.is_over() {
            break;
        }
        let millis = field.window.as_millis() * 2;
        conn.write_all(post(&format!("/fault/deaf/{millis}"), BODY_BYTES).as_bytes())?;
        conn.write_all(&body)?;
        sent += 1;
    }
    wait(field);
    Ok(format!("{sent} sent"))
}

fn churn(field: &Field<'_>) -> io::Result<String> {
    let (begun, done) = (Instant::now(), AtomicU64::new(0));
    let pace = field.window.div_f64(field.count as f64);
    let request = "GET /bytes/64 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let work = || {
        let mut response = Vec::new();
        while !field.is_over() {
            let number = done.fetch_add(1, Relaxed);
            let due = pace.mul_f64(number as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            response.clear();
            let exchanged = field.connect().and_then(|mut conn| {
                conn.write_all(request.as_bytes())?;
                conn.read_to_end(&mut response)
            });
            if exchanged.is_err() {
                done.fetch_sub(1, Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CHURNERS {
            scope.spawn(work);
        }
    });
    Ok(format!("{} connections", done.into_inner()))
}

fn storm(field: &Field<'_>) -> io::Result<String> {
    let done = AtomicU64::new(0);
    let each = field.count.div_ceil(STORM_THREADS);
    let work = || {
        while !field.is_over() {
            let mut held = Vec::new();
            while held.len() < each && !field.is_over() {
                let Ok(mut conn) = field.connect() else {
                    continue;
                };
                // It may be closed by now, which makes no difference.
                let _ = conn.write_all(get("/bytes/64").as_bytes());
                held.push(conn);
            }
            done.fetch_add(held.len() as u64, Relaxed);
            for conn in &held {
                let _ = sockopt::set_socket_linger(conn, Some(Duration::ZERO));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..STORM_THREADS {
            scope.spawn(work);
        }
    });
    Ok(format!("{} connections", done.into_inner()))
}

fn pipeline(field: &Field<'_>, path: &str) -> io::Result<String> {
    let conns = connect_all(field)?;
    let requests = get(path).repeat(PIPELINED);
    let sent = AtomicU64::new(0);
    let write = &|mut conn: &TcpStream| {
        while !field.is_over() && conn.write_all(requests.as_bytes()).is_ok() {
            sent.fetch_add(PIPELINED as u64, Relaxed);
        }
    };
    thread::scope(|scope| {
        for conn in &conns {
            scope.spawn(move || discard(conn));
            scope.spawn(move || write(conn));
        }
        wait(field);
        hang_up(&conns);
    });
    Ok(format!("{} requests", sent.into_inner()))
}

fn download(field: &Field<'_>, path: &str) -> io::Result<String> {
    let mut conns = connect_all(field)?;
    // More than a window's worth.
    for conn in &mut conns {
        conn.write_all(get(path).repeat(PIPELINED).as_bytes())?;
    }
    let received = &AtomicU64::new(0);
    thread::scope(|scope| {
        for conn in &conns {
            scope.spawn(move || received.fetch_add(discard(conn), Relaxed));
        }
        wait(field);
        hang_up(&conns);
    });
    Ok(format!("{:.1} GB", received.load(Relaxed) as f64 / 1e9))
}

/// Reads until the end; how many bytes.
fn discard(mut conn: &TcpStream) -> u64 {
    let mut buf = vec![0; 256 << 10];
    let mut received = 0;
    while let Ok(count @ 1..) = conn.read(&mut buf) {
        received += count as u64;
    }
    received
}

fn hang_up(conns: &[TcpStream]) {
    for conn in conns {
        // Fails where the connection is gone already.
        let _ = conn.shutdown(Shutdown::Both);
    }
}
