//! The model's side of a connection: the part of the NATS protocol that a wire speaks, over memory, with delays.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::world::{Connection, World};

/// What a connection may hold on its way, each way, in bytes.
const PIPE: usize = 64 * 1024;

/// Takes in a client of one process; nobody is there for an earlier one.
pub(super) fn accept(world: &Arc<World>, process: u32) -> io::Result<DuplexStream> {
    let mut state = world.lock();
    if state.process != process || state.is_down() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (client, server) = tokio::io::duplex(PIPE);
    let number = state.connections.len();
    let (written, cut) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    state.ledger().note("connected", number as u64, 0);
    state.connections.push(Connection {
        alive: true,
        subscriptions: Vec::new(),
        out: b"INFO {\"max_payload\":1048576,\"headers\":true}\r\n".to_vec(),
        written: Arc::clone(&written),
        cut: Arc::clone(&cut),
    });
    written.notify_one();
    drop(state);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let (reader, writer) = tokio::io::split(server);
        tokio::select! {
            biased;
            () = cut.notified() => {}
            () = read(&world, number, reader) => {}
            () = write(&world, number, writer, &written) => {}
        }
        world.lock().connections[number].alive = false;
        world.changed.notify_one();
    });
    Ok(client)
}

/// Passes on what the client says.
async fn read(world: &World, number: usize, mut reader: ReadHalf<DuplexStream>) {
    let mut inbound = BytesMut::new();
    while let Ok(1..) = reader.read_buf(&mut inbound).await {
        delay(world).await;
        while let Some(command) = next(&mut inbound) {
            let mut state = world.lock();
            world.step(&mut state);
            if !state.connections[number].alive {
                return;
            }
            let connection = &mut state.connections[number];
            match command {
                Command::Ping => {
                    connection.out.extend_from_slice(b"PONG\r\n");
                    connection.written.notify_one();
                }
                Command::Subscribe(subject, sid) => connection.subscriptions.push((sid, subject)),
                Command::Unsubscribe(sid) => connection.subscriptions.retain(|(one, _)| *one != sid),
                Command::Publish { subject, reply, headers, payload } => {
                    state.published(number, &subject, &reply, &headers, &payload);
                    if state.is_settled() {
                        world.process.notify_one();
                    }
                }
                Command::Other => {}
            }
            drop(state);
            world.changed.notify_one();
        }
    }
}

async fn write(world: &World, number: usize, mut writer: WriteHalf<DuplexStream>, written: &Notify) {
    loop {
        written.notified().await;
        delay(world).await;
        let out = std::mem::take(&mut world.lock().connections[number].out);
        if writer.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Bytes take their time, and a server that is stalled takes all of it.
async fn delay(world: &World) {
    let latency = {
        let state = &mut *world.lock();
        if state.chance(50) { 0 } else { state.rng.u64(1..=4) }
    };
    if latency > 0 {
        sleep(Duration::from_millis(latency)).await;
    }
    loop {
        let stalled = world.lock().stalled_for();
        if stalled == 0 {
            return;
        }
        sleep(Duration::from_millis(stalled)).await;
    }
}

/// What a client says.
enum Command {
    Ping,
    Subscribe(String, u64),
    Unsubscribe(u64),
    Publish { subject: String, reply: String, headers: Vec<u8>, payload: Vec<u8> },
    Other,
}

/// Takes the next command off the buffer, once it is whole.
fn next(buffer: &mut BytesMut) -> Option<Command> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8(buffer[..end].to_vec()).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<usize>().unwrap();
    let (has_headers, subject, reply, sizes) = match words.as_slice() {
        ["PUB", subject, size] => (false, *subject, "", (0, number(size))),
        ["PUB", subject, reply, size] => (false, *subject, *reply, (0, number(size))),
        ["HPUB", subject, header, size] => (true, *subject, "", (number(header), number(size))),
        ["HPUB", subject, reply, header, size] => (true, *subject, *reply, (number(header), number(size))),
        other => {
            let command = match other {
                ["PING"] => Command::Ping,
                ["SUB", subject, sid] => Command::Subscribe((*subject).to_owned(), number(sid) as u64),
                ["UNSUB", sid] => Command::Unsubscribe(number(sid) as u64),
                ["CONNECT", ..] | ["PONG"] => Command::Other,
                other => panic!("a client says {other:?}"),
            };
            buffer.advance(end + 1);
            return Some(command);
        }
    };
    let (header, size) = sizes;
    assert!(has_headers || header == 0);
    if buffer.len() < end + 1 + size + 2 {
        return None;
    }
    let (subject, reply) = (subject.to_owned(), reply.to_owned());
    buffer.advance(end + 1);
    let body = buffer.split_to(size);
    buffer.advance(2);
    Some(Command::Publish { subject, reply, headers: body[..header].to_vec(), payload: body[header..].to_vec() })
}
