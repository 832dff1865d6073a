//! A request held whole in memory, as it goes over the wire.
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use crate::net::quota::Taken;

/// A request that has not drawn a response byte yet, so it may be sent.
///
/// Owning one is the right to send it once more: it is not `Clone`, and [`Replayable::attempt`] takes
/// it by value. It comes back only inside a [`Failed`](crate::upstream::attempt::Failed), which only
/// `attempt` can make. All rewriting is done before it exists; every attempt sends these bytes.
///
/// ```compile_fail,E0599
/// # fn f(request: codex_reset_proxy::upstream::request::Replayable) {
/// let _ = request.clone(); // error: no method `clone`
/// # }
/// ```
pub struct Replayable {
    pub(super) first: Bytes,
    pub(super) rest: Vec<Bytes>,
    pub(super) idempotent: bool,
    /// What the blocks were taken from. Whoever holds them holds it too.
    pub(super) taken: Rc<Taken>,
    /// Where it failed last: it is not tried there next where there is an elsewhere.
    pub(super) failed_at: Option<SocketAddr>,
}

impl Replayable {
    /// A request of these blocks, the first of which begins with its head; what was taken for them is
    /// given back when they are no longer held. `idempotent` as RFC 9110
    /// 9.2.2 says of its method.
    pub fn new((first, rest, taken): (Bytes, Vec<Bytes>, Taken), idempotent: bool) -> Self {
        Self {
            first,
            rest,
            idempotent,
            taken: Rc::new(taken),
            failed_at: None,
        }
    }

    /// Its length, head included.
    pub fn bytes(&self) -> u64 {
        let rest: usize = self.rest.iter().map(Bytes::len).sum();
        (self.first.len() + rest) as u64
    }

    /// Whether its method is idempotent.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}
