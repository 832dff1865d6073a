//! A resolver that is scripted: a server of DNS, and a launcher that makes the proxy, and nobody else,
//! ask it and read a hosts file of the test's own.
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::Seen;

/// What is said of every name.
#[derive(Clone, Debug)]
pub enum Says {
    Addresses(Vec<IpAddr>),
    /// SERVFAIL.
    Fails,
    /// NXDOMAIN.
    NoSuchName,
    /// Not a word.
    Nothing,
}

impl Says {
    pub fn these<const N: usize>(addresses: [impl Into<IpAddr>; N]) -> Self {
        Self::Addresses(addresses.map(Into::into).to_vec())
    }
}

pub struct Names {
    folder: PathBuf,
    says: Arc<Mutex<Says>>,
    asked: Seen<()>,
    script: String,
}

impl Names {
    /// `None` where a launcher may not mount files over those of /etc, or a server not use port 53.
    pub fn new(says: Says) -> Option<Self> {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("codex-reset-proxy-names-{}-{number}", process::id());
        let folder = std::env::temp_dir().join(name);
        let [high, low] = (process::id() as u16).to_be_bytes();
        // An address for each test: the port cannot be chosen.
        let addr = Ipv4Addr::new(127, 100 + number as u8, high, low);
        let names = Self {
            script: script(&folder),
            folder,
            says: Arc::new(Mutex::new(says)),
            asked: Seen::new(),
        };
        fs::create_dir(&names.folder).unwrap();
        let write = |file: &str, text: String| fs::write(names.folder.join(file), text).unwrap();
        write("hosts", "127.0.0.1 localhost\n".to_owned());
        write("nsswitch.conf", "hosts: files dns\n".to_owned());
        let options = "options timeout:1 attempts:1";
        write("resolv.conf", format!("nameserver {addr}\n{options}\n"));
        let mut trial = Command::new("unshare");
        trial.args(&names.launcher()[1..]).arg("/bin/true");
        let mounts = trial.stderr(Stdio::null()).status();
        let socket = UdpSocket::bind(SocketAddrV4::new(addr, 53));
        let (true, Ok(socket)) = (mounts.is_ok_and(|status| status.success()), socket) else {
            eprintln!("SKIPPED: no mounts or no port 53 to be had, so no resolver is scripted");
            return None;
        };
        let (says, asked) = (names.says.clone(), names.asked.clone());
        thread::spawn(move || serve(&socket, &says, &asked));
        Some(names)
    }

    /// For `Proxy::start_by`.
    pub fn launcher(&self) -> [&str; 5] {
        ["unshare", "-rm", "sh", "-c", &self.script]
    }

    pub fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// How many questions have come.
    pub fn asked(&self) -> usize {
        self.asked.all().len()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn script(folder: &std::path::Path) -> String {
    let folder = folder.display();
    let mount = |file| format!("mount --bind {folder}/{file} /etc/{file} && ");
    let mounts = ["hosts", "nsswitch.conf", "resolv.conf"]
        .map(mount)
        .concat();
    format!("{mounts}exec \"$0\" \"$@\"")
}

/// RFC 1035 4.1, as far as the questions of getaddrinfo(3) need it.
fn serve(socket: &UdpSocket, says: &Mutex<Says>, asked: &Seen<()>) {
    const TYPE_A: u8 = 1;
    const TYPE_AAAA: u8 = 28;
    const FAILED: u8 = 2;
    const NO_SUCH_NAME: u8 = 3;
    let mut block = [0; 512];
    let mut last = None;
    while let Ok((count, from)) = socket.recv_from(&mut block) {
        asked.push(());
        let name = block[12..].iter().position(|byte| *byte == 0).unwrap();
        let question = &block[12..12 + name + 5];
        let kind = question[name + 2];
        assert!(count >= 12 + question.len());
        // Of a look-up, which asks for both kinds from one port, all is answered alike.
        let said = match last.take() {
            Some((port, said)) if port == from => said,
            _ => says.lock().unwrap().clone(),
        };
        last = Some((from, said.clone()));
        let (code, addresses) = match said {
            Says::Addresses(mut all) => {
                all.retain(|addr| kind == if addr.is_ipv4() { TYPE_A } else { TYPE_AAAA });
                (0, all)
            }
            Says::Fails => (FAILED, Vec::new()),
            Says::NoSuchName => (NO_SUCH_NAME, Vec::new()),
            Says::Nothing => continue,
        };
        let answers = addresses.len() as u8;
        let mut reply = vec![block[0], block[1], 0x81, 0x80 | code];
        reply.extend_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
        reply.extend_from_slice(question);
        for addr in addresses {
            let octets = match addr {
                IpAddr::V4(addr) => addr.octets().to_vec(),
                IpAddr::V6(addr) => addr.octets().to_vec(),
            };
            // The name of the question, its kind, IN, for no time, so many bytes.
            reply.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, octets.len() as u8]);
            reply.extend_from_slice(&octets);
        }
        let _ = socket.send_to(&reply, from);
    }
}
