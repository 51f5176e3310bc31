//! How many connections each address has open, so that no single one takes all there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The addresses that have connections open, and the most that each may have. It holds no more addresses than there are
/// connections.
#[derive(Debug)]
pub struct Peers {
    limit: NonZeroUsize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a peer, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    pub fn new(limit: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.get()
    }

    /// `None` when the peer has as many connections as it may have.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        let count = open.entry(peer).or_default();
        if *count >= self.limit.get() {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(self), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_is_forgotten_with_its_last_connection() {
        let peers = Peers::new(NonZeroUsize::new(2).unwrap());
        let [one, other] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let (first, second) = (peers.admit(one).unwrap(), peers.admit(one).unwrap());
        assert!(peers.admit(one).is_none());
        let third = peers.admit(other).unwrap();
        drop(first);
        let fourth = peers.admit(one).unwrap();
        assert!(peers.admit(one).is_none());
        drop((second, third, fourth));
        assert!(peers.lock().is_empty());
    }
}
