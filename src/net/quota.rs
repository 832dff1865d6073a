//! A limit of the whole process, such as that of buffered bytes, held by its cores in portions.
//!
//! A core takes from its own portion and gives back to it. What all cores share is touched only when
//! that runs out, or over.
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a core takes beyond its need where the limit leaves so much; it keeps twice that at most.
const PORTION: u64 = 1 << 20;
/// A limit with less than this for each core is kept to the unit: nobody holds a portion.
const CORE_LIMIT_MIN: u64 = 64 * PORTION;

/// A core's way to a limit.
pub struct Quota {
    /// What no core has taken. Nothing is ordered by it.
    shared: Arc<AtomicU64>,
    own: Cell<u64>,
    portion: u64,
    /// What is taken on this core.
    held: Cell<u64>,
}

impl Quota {
    /// `limit` for one core.
    pub fn of_core(limit: u64) -> Rc<Self> {
        Rc::new(Self {
            shared: Arc::new(AtomicU64::new(limit)),
            own: Cell::new(0),
            portion: 0,
            held: Cell::new(0),
        })
    }

    /// `limit` for `cores` cores together.
    pub fn share(limit: u64, cores: usize) -> Vec<Self> {
        let shared = Arc::new(AtomicU64::new(limit));
        let portion = match limit / cores as u64 {
            ..CORE_LIMIT_MIN => 0,
            _ => PORTION,
        };
        let quota = |_| Self {
            shared: shared.clone(),
            own: Cell::new(0),
            portion,
            held: Cell::new(0),
        };
        (0..cores).map(quota).collect()
    }

    /// Takes `amount`, or nothing where the limit does not leave so much.
    fn take(&self, amount: u64) -> bool {
        let own = self.own.get();
        if let Some(left) = own.checked_sub(amount) {
            self.own.set(left);
            return true;
        }
        let missing = amount - own;
        [missing.saturating_add(self.portion), missing]
            .into_iter()
            .any(|wanted| {
                let taken = self
                    .shared
                    .try_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                        free.checked_sub(wanted)
                    });
                if taken.is_ok() {
                    self.own.set(wanted - missing);
                }
                taken.is_ok()
            })
    }

    /// What is taken on this core.
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    fn give_back(&self, amount: u64) {
        self.held.set(self.held.get() - amount);
        let own = self.own.get() + amount;
        if own <= 2 * self.portion {
            self.own.set(own);
            return;
        }
        self.own.set(self.portion);
        self.shared.fetch_add(own - self.portion, Ordering::Relaxed);
    }
}

/// What has been taken of a quota; given back when dropped.
pub struct Taken {
    quota: Rc<Quota>,
    amount: u64,
}

impl Taken {
    /// Nothing yet.
    pub fn nothing(quota: &Rc<Quota>) -> Self {
        Self {
            quota: quota.clone(),
            amount: 0,
        }
    }

    /// Takes one unit.
    pub fn one(quota: &Rc<Quota>) -> Option<Self> {
        let mut taken = Self::nothing(quota);
        taken.add(1).then_some(taken)
    }

    /// Takes `amount` more, or nothing where the limit does not leave so much.
    #[must_use]
    pub fn add(&mut self, amount: u64) -> bool {
        let taken = self.quota.take(amount);
        if taken {
            self.quota.held.set(self.quota.held() + amount);
            self.amount += amount;
        }
        taken
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.quota.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn quotas(limit: u64) -> (Rc<Quota>, Rc<Quota>) {
        let mut quotas = Quota::share(limit, 2).into_iter().map(Rc::new);
        (quotas.next().unwrap(), quotas.next().unwrap())
    }

    #[test]
    fn a_small_limit_is_kept_to_the_unit() {
        let (one, other) = quotas(10);
        let mut taken = Taken::nothing(&one);
        assert!(taken.add(7) && !taken.add(4));
        let mut more = Taken::nothing(&other);
        assert!(more.add(3) && !more.add(1));
        drop(taken);
        assert!(more.add(7) && !more.add(1), "each is given back once");
        drop(more);
        assert!(Taken::nothing(&one).add(10));
    }

    #[test]
    fn a_core_keeps_a_portion_and_no_more() {
        let limit = 1 << 30;
        let (one, other) = quotas(limit);
        let small = Taken::one(&one).expect("there is enough");
        assert_eq!(one.shared.load(Ordering::Relaxed), limit - PORTION - 1);
        drop(small);
        assert!(Taken::nothing(&one).add(PORTION / 2));
        assert_eq!(one.shared.load(Ordering::Relaxed), limit - PORTION - 1);
        let mut large = Taken::nothing(&other);
        assert!(large.add(limit / 2));
        drop(large);
        assert_eq!(other.own.get(), PORTION);
        assert!(!Taken::nothing(&one).add(limit), "a portion is elsewhere");
    }

    #[test]
    fn cores_that_take_at_the_same_time_never_have_more_than_the_limit() {
        let limit = 2 * CORE_LIMIT_MIN;
        let held = Arc::new(AtomicU64::new(0));
        let shared = Quota::share(limit, 2);
        let again = shared[0].shared.clone();
        let cores = shared.into_iter().map(|quota| {
            let held = held.clone();
            std::thread::spawn(move || {
                let quota = Rc::new(quota);
                let mut taken = VecDeque::new();
                for turn in 0..20_000_u64 {
                    let amount = turn % 97 * 100_003;
                    let mut more = Taken::nothing(&quota);
                    if more.add(amount) {
                        let before = held.fetch_add(amount, Ordering::SeqCst);
                        assert!(before + amount <= limit);
                        taken.push_back((more, amount));
                    }
                    if turn % 3 == 0
                        && let Some((oldest, amount)) = taken.pop_front()
                    {
                        held.fetch_sub(amount, Ordering::SeqCst);
                        drop(oldest);
                    }
                }
                for (oldest, amount) in taken {
                    held.fetch_sub(amount, Ordering::SeqCst);
                    drop(oldest);
                }
                quota.own.get()
            })
        });
        let cores: Vec<_> = cores.collect();
        let kept: u64 = cores.into_iter().map(|core| core.join().unwrap()).sum();
        assert_eq!(again.load(Ordering::SeqCst) + kept, limit);
    }
}
