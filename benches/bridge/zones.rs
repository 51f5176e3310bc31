//! Owns the distance between the servers of a cluster: a relay before each, through which all routes of the others go, and which
//! hands everything on as much later as a line between two zones does.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

/// One way, as between neighbouring regions. Zones of one region are a fifth of that apart; but then as many events a second as
/// are to show anything keep the processors of a small machine busy, and these are what limits them.
pub const ONE_WAY: Duration = Duration::from_millis(5);
/// What is read at once, and how many of these are under way in one direction at most; whoever sends more has to wait.
const CHUNK: usize = 64 * 1024;
const UNDER_WAY: usize = 1024;

/// Where a server that has the port to itself is reached from other zones, for as long as this program runs.
///
/// Threads carry the bytes: tokio's timers know whole milliseconds only, and its tasks would wait behind those of the load.
pub fn relay(port: u16) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            // Not there yet, or no more: whoever dials is hung up on, and tries again.
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            carry(near.try_clone().unwrap(), far.try_clone().unwrap());
            carry(far, near);
        }
    });
    address
}

/// One direction of a connection, to its end.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    let (put, take) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            if put.send((Instant::now() + ONE_WAY, chunk[..read].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, chunk) in take {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
