//! In which order a core tries the addresses of a name: those that failed lately come last.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use crate::telemetry::clock::Moment;

/// How long an address that has failed is tried last. An address that is dead costs a core one delay a
/// minute and not one at every connect, and one that is well again soon has its share of them.
const BACK: Duration = Duration::from_secs(60);
/// Addresses remembered: what a few look-ups in that time bring, also where each brings others.
const BACK_MAX: usize = 64;

/// The addresses that have failed lately; the last one to fail is the last here.
#[derive(Default)]
pub(super) struct Order(RefCell<Vec<(SocketAddr, Moment)>>);

impl Order {
    /// An address has refused, hung or not answered: it is tried last for a while.
    pub(super) fn put_back(&self, addr: SocketAddr) {
        self.put_back_at(addr, Moment::now());
    }

    /// These addresses as they should be tried: as they are given, behind them those that have failed,
    /// the longest ago first, and last of all `avoided`.
    pub(super) fn of(
        &self,
        addresses: &[SocketAddr],
        avoided: Option<SocketAddr>,
    ) -> Vec<SocketAddr> {
        self.of_at(addresses, avoided, Moment::now())
    }

    fn put_back_at(&self, addr: SocketAddr, now: Moment) {
        let mut back = self.0.borrow_mut();
        back.retain(|(known, _)| *known != addr);
        if back.len() == BACK_MAX {
            back.remove(0);
        }
        back.push((addr, now));
    }

    fn of_at(
        &self,
        addresses: &[SocketAddr],
        avoided: Option<SocketAddr>,
        now: Moment,
    ) -> Vec<SocketAddr> {
        let mut back = self.0.borrow_mut();
        back.retain(|(_, since)| now.since(*since) < BACK);
        let mut ordered = addresses.to_vec();
        // Nothing, which addresses that have not failed are found at, sorts before any place.
        ordered.sort_by_key(|addr| {
            let failed = back.iter().position(|(known, _)| known == addr);
            (avoided == Some(*addr), failed)
        });
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    fn ports(addresses: Vec<SocketAddr>) -> Vec<u16> {
        addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn what_failed_comes_last_for_a_while_and_the_longest_ago_first() {
        let all = [1, 2, 3, 4].map(addr);
        let order = Order::default();
        let start = Moment::now();
        let seconds = |count| start + Duration::from_secs(count);
        let at = |count| ports(order.of_at(&all, None, seconds(count)));
        assert_eq!(at(0), [1, 2, 3, 4]);
        order.put_back_at(addr(1), seconds(0));
        order.put_back_at(addr(3), seconds(10));
        assert_eq!(at(10), [2, 4, 1, 3]);
        order.put_back_at(addr(1), seconds(20));
        assert_eq!(at(20), [2, 4, 3, 1]);
        assert_eq!(at(69), [2, 4, 3, 1]);
        assert_eq!(at(70), [2, 3, 4, 1]);
        assert_eq!(at(80), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_to_be_avoided_comes_last_whatever_else_has_failed() {
        let all = [1, 2, 3].map(addr);
        let order = Order::default();
        assert_eq!(ports(order.of(&all, Some(addr(1)))), [2, 3, 1]);
        order.put_back(addr(1));
        order.put_back(addr(2));
        assert_eq!(ports(order.of(&all, Some(addr(1)))), [3, 2, 1]);
        assert_eq!(ports(order.of(&all, Some(addr(9)))), [3, 1, 2]);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let order = Order::default();
        for number in 0..1000 {
            order.put_back(addr(number));
        }
        assert_eq!(order.0.borrow().len(), BACK_MAX);
        let ordered = order.of(&[999, 0].map(addr), None);
        assert_eq!(ports(ordered), [0, 999]);
    }
}
