//! The faults, one function each: it strikes, lasts a while under load, and is gone when the function returns.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::house::House;
use super::load::Load;
use super::sinks::Health;

/// How long a fault lasts, about.
const WHILE: Duration = Duration::from_millis(700);
/// Connections of a flood, each with one request after the other.
const FLOOD: usize = 300;
const FLOOD_REQUESTS: usize = 5;
/// Connections that send half of a request and then nothing, unless `KNATS_CHAOS_CONNECTIONS` says otherwise.
const SLOW: u64 = 200;
/// Connections that send what is no HTTP, or far too much of it.
const JUNK: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    NatsKilled,
    NatsStalled,
    LinkCut,
    LinkStalled,
    BridgeKilled,
    BridgeDrained,
    SinksRefuse,
    SinksHang,
    SinksReset,
    Flood,
    SlowSenders,
    Junk,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::NatsKilled,
        Self::NatsStalled,
        Self::LinkCut,
        Self::LinkStalled,
        Self::BridgeKilled,
        Self::BridgeDrained,
        Self::SinksRefuse,
        Self::SinksHang,
        Self::SinksReset,
        Self::Flood,
        Self::SlowSenders,
        Self::Junk,
    ];

    pub async fn strike(self, house: &mut House, load: &Load, random: &mut fastrand::Rng) {
        let lasts = WHILE.mul_f64(0.5 + random.f64());
        match self {
            Self::NatsKilled => {
                house.nats.kill9();
                tokio::time::sleep(lasts).await;
                house.nats.start_again().await;
            }
            Self::NatsStalled => {
                house.nats.stop().await;
                tokio::time::sleep(lasts).await;
                house.nats.cont();
            }
            Self::LinkCut => {
                house.link.cut();
                tokio::time::sleep(lasts).await;
                house.link.heal();
            }
            Self::LinkStalled => {
                house.link.stall();
                tokio::time::sleep(lasts).await;
                house.link.heal();
            }
            Self::BridgeKilled => house.kill_and_restart(random.usize(..2)).await,
            Self::BridgeDrained => house.drain_and_restart(random.usize(..2)).await,
            Self::SinksRefuse => ill(house, Health::Refuses, lasts).await,
            Self::SinksHang => ill(house, Health::Hangs, lasts).await,
            Self::SinksReset => ill(house, Health::Resets, lasts).await,
            Self::Flood => load.flood(FLOOD, FLOOD_REQUESTS).await,
            Self::SlowSenders => slow_senders(house, load).await,
            Self::Junk => junk(house, load, random).await,
        }
    }
}

async fn ill(house: &House, health: Health, lasts: Duration) {
    house.sinks.be(health);
    tokio::time::sleep(lasts).await;
    house.sinks.be(Health::Well);
}

/// Others must be served meanwhile.
async fn slow_senders(house: &House, load: &Load) {
    let mut connections = Vec::new();
    for _ in 0..super::setting("KNATS_CHAOS_CONNECTIONS").unwrap_or(SLOW) {
        let mut connection = TcpStream::connect(house.bridges[0].address()).await.unwrap();
        connection.write_all(b"POST /default/chaos HTTP/1.1\r\nhost: x\r\nce-id: ").await.unwrap();
        connections.push(connection);
    }
    load.more(super::BETWEEN).await;
}

/// Bytes at random, heads without end, and requests piled up behind each other, none of which may do harm to others.
async fn junk(house: &House, load: &Load, random: &mut fastrand::Rng) {
    let mut connections = Vec::new();
    for number in 0..JUNK {
        let bytes = match number % 3 {
            0 => (0..10_000).map(|_| random.u8(..)).collect(),
            1 => format!("POST /default/chaos HTTP/1.1\r\n{}", "x-header: and another one\r\n".repeat(20_000))
                .into_bytes(),
            _ => "POST /default/chaos HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx".repeat(500).into_bytes(),
        };
        let mut connection = TcpStream::connect(house.bridges[0].address()).await.unwrap();
        // It is closed on most of them before all is written.
        let _ = tokio::time::timeout(WHILE, connection.write_all(&bytes)).await;
        connections.push(connection);
    }
    load.more(super::BETWEEN).await;
}
