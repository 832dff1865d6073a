//! A scripted upstream: the n-th act is played on the n-th connection, and the test fails when the
//! proxy does more or less than the script says.
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::net::{SocketFlags, accept_with};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::peer::{Heard, Peer, Ready, readable};
use super::tls::Authority;
use super::wire::{Request, Stream};
use super::{DEADLINE, Seen, net};

/// What happens on one connection. Where it does not close it, the connection stays open and must
/// stay silent until the proxy closes it.
pub type Act = Box<dyn FnOnce(&mut Peer) + Send>;

pub fn act(play: impl FnOnce(&mut Peer) + Send + 'static) -> Act {
    Box::new(play)
}

/// Reads a request and stays silent until the proxy gives up.
pub fn hangs() -> Act {
    act(|peer| {
        peer.request();
        peer.is_closed();
    })
}

/// Reads a request and closes without a byte.
pub fn closes() -> Act {
    act(|peer| {
        peer.request();
        peer.close();
    })
}

/// Reads a request and resets without a byte.
pub fn resets() -> Act {
    act(|peer| {
        peer.request();
        peer.reset();
    })
}

/// Reads a request and sends these bytes.
pub fn answers(response: impl AsRef<[u8]> + Send + 'static) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(response);
    })
}

enum Script {
    Acts(VecDeque<Act>),
    Each(usize, Arc<dyn Fn(&mut Peer) + Send + Sync>),
    InTurn(Turns),
}

/// The act for connection `number`, if there may be one.
type Turns = Box<dyn FnMut(usize) -> Option<Act> + Send>;

impl Script {
    /// What to play on connection `number`, counted from 0.
    fn next(&mut self, number: usize) -> Option<Act> {
        match self {
            Self::Acts(acts) => acts.pop_front(),
            Self::Each(max, play) if number < *max => {
                let play = Arc::clone(play);
                Some(act(move |peer| play(peer)))
            }
            Self::Each(..) => None,
            Self::InTurn(turns) => turns(number),
        }
    }
}

pub struct Origin {
    pub addr: SocketAddr,
    url: String,
    heard: Heard,
    stop: Option<UnixStream>,
    accepting: Option<JoinHandle<Vec<String>>>,
}

impl Origin {
    /// Plays one act on each connection, in order of their arrival.
    pub fn plays(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::start(listener(), Script::Acts(acts.into_iter().collect()), None)
    }

    /// The same on a listener that exists already, of a Unix socket perhaps.
    pub fn plays_on(listener: TcpListener, acts: impl IntoIterator<Item = Act>) -> Self {
        Self::start(listener, Script::Acts(acts.into_iter().collect()), None)
    }

    pub fn plays_tls(authority: &Authority, acts: impl IntoIterator<Item = Act>) -> Self {
        Self::plays_tls_on(listener(), authority, acts)
    }

    pub fn plays_tls_on(
        listener: TcpListener,
        authority: &Authority,
        acts: impl IntoIterator<Item = Act>,
    ) -> Self {
        let script = Script::Acts(acts.into_iter().collect());
        Self::start(listener, script, Some(authority.server()))
    }

    /// Plays the same on each of up to `max` connections.
    pub fn serves(max: usize, play: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start(listener(), Script::Each(max, Arc::new(play)), None)
    }

    /// The same on a listener that exists already.
    pub fn serves_on(
        listener: TcpListener,
        max: usize,
        play: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::start(listener, Script::Each(max, Arc::new(play)), None)
    }

    pub fn serves_tls_on(
        listener: TcpListener,
        authority: &Authority,
        max: usize,
        play: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let script = Script::Each(max, Arc::new(play));
        Self::start(listener, script, Some(authority.server()))
    }

    /// Asks for an act at each connection: for scripts whose connections are not certain.
    pub fn serves_in_turn(turns: impl FnMut(usize) -> Option<Act> + Send + 'static) -> Self {
        Self::start(listener(), Script::InTurn(Box::new(turns)), None)
    }

    pub fn serves_tls_in_turn(
        authority: &Authority,
        turns: impl FnMut(usize) -> Option<Act> + Send + 'static,
    ) -> Self {
        Self::serves_tls_in_turn_with(authority.server(), turns)
    }

    /// The same with a server's configuration of its own.
    pub fn serves_tls_in_turn_with(
        config: Arc<ServerConfig>,
        turns: impl FnMut(usize) -> Option<Act> + Send + 'static,
    ) -> Self {
        let script = Script::InTurn(Box::new(turns));
        Self::start(listener(), script, Some(config))
    }

    pub fn serves_tls(
        authority: &Authority,
        max: usize,
        play: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let script = Script::Each(max, Arc::new(play));
        Self::start(listener(), script, Some(authority.server()))
    }

    /// The same with a server's configuration of its own.
    pub fn serves_tls_with(
        config: Arc<ServerConfig>,
        max: usize,
        play: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let script = Script::Each(max, Arc::new(play));
        Self::start(listener(), script, Some(config))
    }

    fn start(listener: TcpListener, script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (addr, url) = match listener.local_addr() {
            Ok(addr) => (addr, format!("{scheme}://{addr}")),
            Err(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), net::unix_url(&listener)),
        };
        let (stop, stopped) = UnixStream::pair().unwrap();
        let stage = Stage {
            listener,
            stopped,
            tls,
            heard: Heard {
                requests: Seen::new(),
                handshakes: Seen::new(),
            },
        };
        Self {
            addr,
            url,
            heard: stage.heard.clone(),
            stop: Some(stop),
            accepting: Some(thread::spawn(move || stage.play(script))),
        }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The requests read so far, in order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.heard.requests.all()
    }

    /// Waits for the `count`-th request.
    #[track_caller]
    pub fn request(&self, count: usize) -> Request {
        let found = self
            .heard
            .requests
            .wait(DEADLINE, |all| all.get(count - 1).cloned());
        found.unwrap_or_else(|| panic!("request {count} never came"))
    }

    /// The kinds of the TLS handshakes so far.
    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.heard.handshakes.all()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take()); // the other end becomes readable
        let faults = match self.accepting.take().map(JoinHandle::join) {
            Some(Ok(faults)) => faults,
            _ => vec!["the upstream's listener failed".to_owned()],
        };
        if !thread::panicking() {
            assert!(faults.is_empty(), "the upstream: {}", faults.join("; "));
        } else if !faults.is_empty() {
            eprintln!("the upstream: {}", faults.join("; "));
        }
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// The upstream's side of an `Origin`.
struct Stage {
    listener: TcpListener,
    stopped: UnixStream,
    tls: Option<Arc<ServerConfig>>,
    heard: Heard,
}

impl Stage {
    /// Accepts until the test ends; yields what the proxy or the script did wrong.
    fn play(self, mut script: Script) -> Vec<String> {
        let mut faults = Vec::new();
        let (mut number, mut playing) = (0, Vec::new());
        self.listener.set_nonblocking(true).unwrap();
        loop {
            let over = readable(&self.listener, &self.stopped) == Ready::Stopped;
            while let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) {
                let tcp = TcpStream::from(socket);
                match script.next(number) {
                    Some(act) => playing.push((number, self.play_one(act, tcp, number))),
                    None => faults.push("a connection more than the script allows".to_owned()),
                }
                number += 1;
            }
            let ended = playing.extract_if(.., |(_, thread)| thread.is_finished());
            faults.extend(ended.filter_map(join)); // a thread that nobody joins keeps its stack
            if over {
                break;
            }
        }
        if let Script::Acts(left) = script
            && !left.is_empty()
        {
            faults.push(format!("{} acts were never played", left.len()));
        }
        faults.extend(playing.into_iter().filter_map(join));
        faults
    }

    fn play_one(&self, act: Act, tcp: TcpStream, number: usize) -> JoinHandle<()> {
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).unwrap();
                Stream::Tls(Box::new(StreamOwned::new(session, tcp)))
            }
        };
        let stopped = self.stopped.try_clone().unwrap();
        let mut peer = Peer::new(number, stream, self.heard.clone(), stopped);
        thread::spawn(move || {
            act(&mut peer);
            peer.stays_silent();
        })
    }
}

/// The end of an act; what went wrong in it.
fn join((number, thread): (usize, JoinHandle<()>)) -> Option<String> {
    let panic = thread.join().err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    Some(format!(
        "connection {}: {}",
        number + 1,
        text.unwrap_or_default()
    ))
}
