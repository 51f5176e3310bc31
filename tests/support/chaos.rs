//! A TCP proxy that can be cut, stalled and healed, to stand between the bridge and NATS.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Healthy,
    /// Connections stay, nothing passes.
    Stalled,
    /// Connections are closed, new ones at once.
    Cut,
}

pub struct ChaosProxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    server: JoinHandle<()>,
}

impl ChaosProxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = watch::Sender::new(Line::Healthy);
        let server = tokio::spawn(accept(listener, port, line.subscribe()));
        Self { address, line, server }
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

    pub fn heal(&self) {
        self.line.send_replace(Line::Healthy);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, line: watch::Receiver<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        if *line.borrow() == Line::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (up, down) = (line.clone(), line.clone());
        tokio::spawn(async move {
            // Whichever way ends first takes the other with it.
            tokio::select! {
                () = pass(from_client, to_server, up) => {}
                () = pass(from_server, to_client, down) => {}
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *line.borrow_and_update();
        let count = match now {
            Line::Cut => return,
            Line::Stalled => {
                if line.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Line::Healthy => tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => count,
                },
                changed = line.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            },
        };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
