//! Whatever is sent, no message is taken for another, or for two, or gets to somebody else.
mod down;
mod requests;
mod responses;
mod up;

use std::thread;

use crate::support::{Client, Cut, Response};

/// Proxies that go through a list side by side.
const LANES: usize = 4;

/// Deals `cases` out to threads that are to go through their share.
fn in_lanes<C: Sync>(cases: &[C], go_through: impl Fn(&mut dyn Iterator<Item = &C>) + Sync) {
    thread::scope(|scope| {
        for lane in 0..LANES {
            let go_through = &go_through;
            scope.spawn(move || go_through(&mut cases.iter().skip(lane).step_by(LANES)));
        }
    });
}

/// The response that is not interim.
fn final_response(client: &mut Client, method: &str) -> Result<Response, Cut> {
    loop {
        let response = client.try_response(method)?;
        if response.status() >= 200 {
            return Ok(response);
        }
    }
}
