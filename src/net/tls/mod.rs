//! TLS over a [`Tcp`]: the session of rustls driven by hand.
//!
//! monoio-rustls is not used here: a read that timed out makes its next one panic, and its fixed
//! 16 KiB buffers cost twice the CPU. Ciphertext is read into a pooled buffer that is held only while
//! there are bytes in it.
mod fault;
mod settings;

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Write};
use std::time::Duration;

use rustls::{ClientConnection, HandshakeKind};

pub use self::fault::is_certificate_error;
pub use self::settings::TlsSettings;

use self::fault::invalid;
use self::settings::Asked;
use crate::net::buffer::{Buffer, LARGE_BYTES};
use crate::net::tcp::Tcp;

/// Plaintext encrypted at once: three records, whose ciphertext fits a large buffer.
const WRITE_BYTES_MAX: usize = 48 << 10;
/// Reads at once of records that carry no data: an upstream that sends nothing else must not keep the
/// core.
const READS_MAX: usize = 16;

/// A TLS session on a connection of its own. May be read and written at the same time.
pub struct Tls {
    tcp: Tcp,
    session: RefCell<ClientConnection>,
    /// Received and not yet given to the session.
    ciphertext: RefCell<Buffer>,
    /// What the session failed with; told after the plaintext that came before it.
    error: RefCell<Option<io::Error>>,
    /// Whether the peer has asked who we are.
    asked: Cell<Asked>,
    /// The last read stopped for want of room: the session may hold more, whatever the socket says.
    more: Cell<bool>,
    flushing: Cell<bool>,
}

impl Tls {
    /// Shakes hands on `tcp`. Dropping the future gives the connection up.
    ///
    /// # Errors
    /// `InvalidData` where certificates or the peer's messages are at fault, otherwise what the socket
    /// said.
    pub async fn handshake(tcp: Tcp, settings: &TlsSettings, stall: Duration) -> io::Result<Self> {
        let (config, name) = (settings.config.clone(), settings.name.clone());
        let session =
            ClientConnection::new(config, name).map_err(|error| invalid(error, Asked::No))?;
        let tls = Self {
            tcp,
            session: RefCell::new(session),
            ciphertext: RefCell::new(Buffer::empty()),
            error: RefCell::new(None),
            asked: Cell::new(Asked::No),
            more: Cell::new(false),
            flushing: Cell::new(false),
        };
        while tls.session.borrow().is_handshaking() {
            tls.flush(stall).await?;
            tls.tcp.readable().await?;
            let mut received = Buffer::small();
            match tls.tcp.try_read(&mut received)? {
                None => continue,
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) => tls.ciphertext.replace(received),
            };
            while tls.session.borrow().is_handshaking() && tls.feed()? {}
            if let Some(error) = tls.error.take() {
                let _ = tls.flush(stall).await; // the alert that says why
                return Err(error);
            }
        }
        tls.flush(stall).await?;
        Ok(tls)
    }

    /// Whether the session goes on from one before.
    pub fn is_resumed(&self) -> bool {
        self.session.borrow().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The connection below.
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// Waits until a read may find something. It may also find nothing: a record that carries no
    /// data, or only a part of one.
    pub async fn readable(&self) -> io::Result<()> {
        if self.more.get() || !self.ciphertext.borrow().is_empty() {
            return Ok(());
        }
        self.tcp.readable().await
    }

    /// Reads what is there, as [`Tcp::try_read`]. `Some(0)` only after close_notify; a bare FIN is
    /// `UnexpectedEof`.
    pub fn try_read(&self, into: &mut Buffer) -> io::Result<Option<usize>> {
        for _ in 0..READS_MAX {
            if let Some(count) = self.decrypt(into)? {
                return Ok(Some(count));
            }
            let mut received = Buffer::for_bytes(into.spare().max(LARGE_BYTES));
            match self.tcp.try_read(&mut received)? {
                None => return Ok(None),
                Some(count) => self.received(received, count)?,
            }
        }
        self.decrypt(into)
    }

    /// Writes all of `block`, as [`Tcp::write`].
    pub async fn write(&self, block: &[u8], stall: Duration) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(WRITE_BYTES_MAX)];
            let taken = self.session.borrow_mut().writer().write(piece)?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into()); // somebody else is writing
            }
            rest = &rest[taken..];
            self.flush(stall).await?;
        }
        Ok(())
    }

    /// Whether the connection can take another request: records that carry no data, such as session
    /// tickets, are fine, anything else is not.
    pub fn is_quiet(&self) -> bool {
        if self.tcp.is_quiet() && !self.more.get() {
            return true;
        }
        matches!(self.try_read(&mut Buffer::small()), Ok(None))
    }

    /// Says close_notify and FIN; the peer may go on.
    pub async fn close_write(&self, stall: Duration) -> io::Result<()> {
        self.session.borrow_mut().send_close_notify();
        self.flush(stall).await?;
        self.tcp.close_write();
        Ok(())
    }

    /// Says close_notify, if it can be said at once, and ends both directions.
    pub fn close(&self) {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        let mut alert = Vec::new();
        if !self.flushing.get() && session.write_tls(&mut alert).is_ok() {
            let _ = rustix::net::send(&self.tcp, &alert, rustix::net::SendFlags::DONTWAIT);
        }
        self.tcp.close_both();
    }

    /// Moves plaintext into `into`, feeding the session as long as there is ciphertext. `None`: more
    /// ciphertext is needed.
    fn decrypt(&self, into: &mut Buffer) -> io::Result<Option<usize>> {
        let mut count = 0;
        loop {
            let mut session = self.session.borrow_mut();
            let mut reader = session.reader();
            match reader.fill_buf() {
                Ok([]) if count == 0 => return Ok(Some(0)),
                Err(error) if count == 0 && error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(error);
                }
                Ok(plaintext) if !plaintext.is_empty() => {
                    let room = plaintext.len().min(into.spare());
                    into.as_vec().extend_from_slice(&plaintext[..room]);
                    reader.consume(room);
                    count += room;
                    if into.spare() == 0 {
                        self.more.set(true);
                        return Ok(Some(count));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                // An end or an error behind data: told at the next read.
                _ => {
                    self.more.set(true);
                    return Ok(Some(count));
                }
            }
            drop(session);
            if self.error.borrow().is_some() {
                self.more.set(true);
                return match self.error.take() {
                    Some(error) if count == 0 => Err(error),
                    error => {
                        self.error.replace(error);
                        Ok(Some(count))
                    }
                };
            }
            if !self.feed()? {
                self.more.set(false);
                return Ok((count > 0).then_some(count));
            }
        }
    }

    /// Gives the session some ciphertext; `false` where there is none.
    fn feed(&self) -> io::Result<bool> {
        let mut ciphertext = self.ciphertext.borrow_mut();
        if ciphertext.is_empty() {
            *ciphertext = Buffer::empty();
            return Ok(false);
        }
        let mut session = self.session.borrow_mut();
        let taken = session.read_tls(&mut &ciphertext[..])?;
        if taken == 0 {
            ciphertext.clear(); // after close_notify nothing more is taken
            return Ok(false);
        }
        ciphertext.consume(taken);
        let processed = session.process_new_packets();
        self.asked.set(self.asked.get().or_now());
        if let Err(error) = processed {
            self.error.replace(Some(invalid(error, self.asked.get())));
            ciphertext.clear();
        }
        Ok(true)
    }

    fn received(&self, ciphertext: Buffer, count: usize) -> io::Result<()> {
        if count > 0 {
            self.ciphertext.replace(ciphertext);
            return Ok(());
        }
        // FIN: the session tells a clean end from a cut.
        self.session
            .borrow_mut()
            .read_tls(&mut io::empty())
            .map(drop)
    }

    /// Sends what the session has to say. One task at a time does it for all: records must not
    /// interleave.
    async fn flush(&self, stall: Duration) -> io::Result<()> {
        if self.flushing.replace(true) {
            return Ok(());
        }
        let mut outgoing = Buffer::large();
        let mut result = Ok(());
        while result.is_ok() && self.session.borrow().wants_write() {
            self.session.borrow_mut().write_tls(outgoing.as_vec())?;
            result = self.tcp.write_buffer(&mut outgoing, stall).await;
        }
        self.flushing.set(false);
        result
    }
}
