//! A request held whole in memory, as it goes over the wire.
use bytes::Bytes;

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
}

impl Replayable {
    /// A request of these blocks, the first of which begins with its head. `idempotent` as RFC 9110
    /// 9.2.2 says of its method.
    pub fn new((first, rest): (Bytes, Vec<Bytes>), idempotent: bool) -> Self {
        Self {
            first,
            rest,
            idempotent,
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
