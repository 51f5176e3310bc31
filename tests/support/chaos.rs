//! A TCP proxy that can be cut, stalled, slowed and healed, to stand between the bridge and NATS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::until;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Healthy,
    /// What comes is held back for so long before it is passed on.
    Slow(Duration),
    /// Connections stay, nothing passes.
    Stalled,
    /// Connections are closed, new ones at once.
    Cut,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// Where a connection is to be cut.
#[derive(Debug, Clone, Copy)]
struct Snip {
    from: From,
    /// How the frame begins.
    frame: &'static [u8],
    /// Bytes of it that still pass.
    passes: usize,
}

type Snips = Arc<Mutex<Option<Snip>>>;

pub struct ChaosProxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    snip: Snips,
    server: JoinHandle<()>,
}

impl ChaosProxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, snip) = (watch::Sender::new(Line::Healthy), Snips::default());
        let server = tokio::spawn(accept(listener, port, line.subscribe(), snip.clone()));
        Self { address, line, snip, server }
    }

    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    pub fn stall(&self) {
        self.line.send_replace(Line::Stalled);
    }

    pub fn slow(&self, delay: Duration) {
        self.line.send_replace(Line::Slow(delay));
    }

    pub fn heal(&self) {
        self.line.send_replace(Line::Healthy);
    }

    /// Will let so many bytes pass of the next frame that begins like this, and close the connection that it is on.
    pub fn cut_within(&self, from: From, frame: &'static str, passes: usize) {
        *self.snip.lock().unwrap() = Some(Snip { from, frame: frame.as_bytes(), passes });
    }

    /// Returns when [`ChaosProxy::cut_within`] has happened.
    pub async fn is_cut(&self) {
        until("the frame to be cut has come", || async { self.snip.lock().unwrap().is_none() }).await;
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, line: watch::Receiver<Line>, snip: Snips) {
    while let Ok((client, _)) = listener.accept().await {
        if *line.borrow() == Line::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let up = Way { line: line.clone(), from: From::Client, snip: snip.clone(), seen: Vec::new() };
        let down = Way { line: line.clone(), from: From::Server, snip: snip.clone(), seen: Vec::new() };
        tokio::spawn(async move {
            // Whichever way ends first takes the other with it.
            tokio::select! {
                () = up.pass(from_client, to_server) => {}
                () = down.pass(from_server, to_client) => {}
            }
        });
    }
}

/// One direction of one connection.
struct Way {
    line: watch::Receiver<Line>,
    from: From,
    snip: Snips,
    /// The last bytes that have passed: the beginning of a frame may lie in two reads.
    seen: Vec<u8>,
}

impl Way {
    async fn pass(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let now = *self.line.borrow_and_update();
            let count = match now {
                Line::Cut => return,
                Line::Stalled => {
                    if self.line.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Line::Healthy | Line::Slow(_) => tokio::select! {
                    read = from.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(count) => count,
                    },
                    changed = self.line.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                },
            };
            if let Line::Slow(delay) = now {
                tokio::time::sleep(delay).await;
            }
            let passes = self.passes(&buffer[..count]);
            if to.write_all(&buffer[..passes.unwrap_or(count)]).await.is_err() || passes.is_some() {
                return;
            }
        }
    }

    /// How much of these bytes may pass before the connection is to be cut; `None` when all of them may and it stays.
    fn passes(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut snip = self.snip.lock().unwrap();
        let Snip { from, frame, passes } = (*snip)?;
        if from != self.from {
            return None;
        }
        let before = self.seen.len();
        self.seen.extend_from_slice(bytes);
        let begin = self.seen.windows(frame.len()).position(|window| window == frame);
        let end = begin.map(|begin| begin + passes);
        match end {
            Some(end) if end <= self.seen.len() => {
                *snip = None;
                Some(end.saturating_sub(before))
            }
            // The frame goes on in the next read.
            Some(_) => None,
            None => {
                self.seen.drain(..self.seen.len().saturating_sub(frame.len() - 1));
                None
            }
        }
    }
}
