//! The addresses of whom we connect to, looked up by a thread of its own: getaddrinfo(3) blocks, a core must not.
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType};
use local_sync::semaphore::Semaphore;

use crate::net::mailbox::{Notice, Resolved, Sender, Whose};
use crate::telemetry::clock::Moment;

/// How old addresses may get.
const REFRESH: Duration = Duration::from_secs(30);
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Asks for the name to be looked up again, soon. One for each core.
pub type Refresh = mpsc::SyncSender<()>;

/// Starts the thread that looks `host` up, at once, every 30 seconds and when it is asked to, and
/// tells each of `cores`, for `whose` it is. An address needs no thread and is told once.
pub fn start(
    whose: Whose,
    host: &str,
    port: u16,
    cores: Vec<Sender<Notice>>,
) -> std::io::Result<Refresh> {
    let (refresh, asked) = refresh();
    let host = host.to_owned();
    let tell = move |resolved: Resolved, began: Moment| {
        for core in &cores {
            core.send(Notice::Resolved(whose, resolved.clone(), began));
        }
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        let addr = SocketAddr::new(ip, port);
        tell(Resolved::Addresses([addr].into()), Moment::now());
        return Ok(refresh);
    }
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            loop {
                let began = Moment::now();
                tell(look_up(&host, port), began);
                if asked.recv_timeout(REFRESH) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
    Ok(refresh)
}

/// Room for one: a look-up answers all who have asked before it, however long the one before takes.
fn refresh() -> (Refresh, mpsc::Receiver<()>) {
    mpsc::sync_channel(1)
}

fn look_up(host: &str, port: u16) -> Resolved {
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let failed = |reason: String| Resolved::Failed(reason.into());
    match dns_lookup::getaddrinfo(Some(host), None, Some(hints)) {
        Ok(found) => {
            let addresses = found
                .flatten()
                .map(|info| SocketAddr::new(info.sockaddr.ip(), port));
            let mut addresses = alternating(addresses.collect());
            addresses.truncate(ADDRESSES_MAX);
            match addresses.is_empty() {
                true => failed(format!("{host} has no address")),
                false => Resolved::Addresses(addresses.into()),
            }
        }
        Err(error) => match error.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => {
                Resolved::NoSuchName(format!("the name {host} does not exist").into())
            }
            _ => failed(format!("{host}: {}", std::io::Error::from(error))),
        },
    }
}

/// The same in turns of IPv6 and IPv4, of which each keeps its order (RFC 8305, section 4): where one of
/// the two leads nowhere, the second address is a way round already.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let mut turns = [0, 0];
    let mut numbered: Vec<_> = addresses
        .into_iter()
        .map(|addr| {
            let second = addr.is_ipv6() != six_first;
            let turn = &mut turns[usize::from(second)];
            *turn += 1;
            ((*turn, second), addr)
        })
        .collect();
    numbered.sort_by_key(|(turn, _)| *turn);
    numbered.into_iter().map(|(_, addr)| addr).collect()
}

/// What a core knows of the addresses of a name.
pub struct Addresses {
    /// The outcome of a look-up, and when that began.
    latest: RefCell<Option<(Resolved, Moment)>>,
    /// The look-up under way, or the next one; closed when it has ended.
    look_up: RefCell<Rc<Semaphore>>,
    refresh: Refresh,
}

impl Addresses {
    /// Nothing known yet.
    pub fn new(refresh: Refresh) -> Self {
        Self {
            latest: RefCell::new(None),
            look_up: RefCell::new(Rc::new(Semaphore::new(0))),
            refresh,
        }
    }

    /// Takes the outcome of a look-up that `began` then. Addresses once known are kept when a later
    /// one fails.
    pub fn update(&self, resolved: Resolved, began: Moment) {
        let known = matches!(*self.latest.borrow(), Some((Resolved::Addresses(_), _)));
        if !known || matches!(resolved, Resolved::Addresses(_)) {
            self.latest.replace(Some((resolved, began)));
        }
        self.look_up.replace(Rc::new(Semaphore::new(0))).close();
    }

    /// Asks for another look-up, for when connecting has failed.
    pub fn refresh(&self) {
        // Full: somebody has asked. Gone: an address has nobody to ask.
        let _ = self.refresh.try_send(());
    }

    /// Whether this is one of the addresses, as far as is known.
    pub fn include(&self, addr: SocketAddr) -> bool {
        matches!(&*self.latest.borrow(), Some((Resolved::Addresses(all), _)) if all.contains(&addr))
    }

    /// The addresses, or why there are none. Where none is known it waits for a look-up: the first, or
    /// after a failure one that begins from now on, since one under way may be about to fail for what is
    /// over by now. Give it a deadline.
    pub async fn get(&self) -> Resolved {
        let mut asked = None;
        match &*self.latest.borrow() {
            Some((known @ Resolved::Addresses(_), _)) => return known.clone(),
            Some(_) => {
                asked = Some(Moment::now());
                self.refresh();
            }
            None => (), // the first look-up is under way
        }
        loop {
            let look_up = self.look_up.borrow().clone();
            let _ = look_up.acquire().await; // no permit is ever added
            if let Some((resolved, began)) = &*self.latest.borrow()
                && (matches!(resolved, Resolved::Addresses(_)) || asked <= Some(*began))
            {
                return resolved.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::driver::run;
    use crate::net::{sleep, spawn};

    #[test]
    fn families_take_turns_and_each_keeps_its_order() {
        let turned = |all: &[&str]| {
            let parse = |text: &&str| SocketAddr::new(text.parse().unwrap(), 443);
            let all = alternating(all.iter().map(parse).collect());
            all.iter()
                .map(|addr| addr.ip().to_string())
                .collect::<Vec<_>>()
        };
        let (a, b, c) = ("2001:db8::a", "2001:db8::b", "2001:db8::c");
        let (d, e) = ("192.0.2.4", "192.0.2.5");
        assert_eq!(turned(&[a, b, c, d, e]), [a, d, b, e, c]);
        assert_eq!(turned(&[d, e, a, b, c]), [d, a, e, b, c]);
        assert_eq!(turned(&[a, d, b, e, c]), [a, d, b, e, c]);
        assert_eq!(turned(&[e, d]), [e, d]);
        assert!(turned(&[]).is_empty());
    }

    #[test]
    fn what_is_asked_for_during_a_look_up_is_asked_for_once() {
        let (refresh, asked) = refresh();
        let addresses = Addresses::new(refresh);
        for _ in 0..1000 {
            addresses.refresh();
        }
        assert_eq!(asked.try_iter().count(), 1);
        addresses.refresh();
        assert_eq!(asked.try_iter().count(), 1);
    }

    #[test]
    fn who_asks_after_a_failure_is_not_told_of_a_look_up_that_began_before() {
        run(async {
            let (refresh, asked) = refresh();
            let addresses = Rc::new(Addresses::new(refresh));
            let failed = |reason: &str| Resolved::Failed(reason.into());
            addresses.update(failed("first"), Moment::now());
            let under_way = Moment::now();
            for answer in [failed("third"), Resolved::Addresses([].into())] {
                let waiting = addresses.clone();
                let got = spawn(async move { waiting.get().await });
                sleep(Duration::from_millis(1)).await;
                assert_eq!(asked.try_iter().count(), 1);
                addresses.update(failed("second"), under_way);
                sleep(Duration::from_millis(1)).await;
                addresses.update(answer.clone(), Moment::now());
                assert_eq!(format!("{:?}", got.await), format!("{answer:?}"));
            }
        });
    }
}
