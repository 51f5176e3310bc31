//! What the server does with what a client says, and what it says by itself.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{CHANNEL_WINDOW, Connection, EPOCH, LETTERS_WINDOW, State};
use crate::channel::dead_letter;
use crate::dispatch::simulation::jetstream::{Pull, Word};
use crate::dispatch::simulation::{CONSUMER, LETTER_SUBJECT, LETTERS, REPLIES, STREAM, SUBJECT, Sabotage};

impl State {
    /// Does what is due, and hands out what can be.
    pub(in crate::dispatch::simulation) fn advance(&mut self) {
        let words = self.jetstream.advance(Instant::now());
        self.say_all(words);
        self.hand_out();
    }

    pub(in crate::dispatch::simulation) fn say_all(&mut self, words: Vec<Word>) {
        for Word { pull, status } in words {
            self.say(&pull, status);
        }
    }

    fn say(&mut self, pull: &Pull, status: &str) {
        self.send(pull.connection, &pull.reply, &pull.reply, "", &format!("NATS/1.0 {status}\r\n\r\n"), b"");
    }

    fn hand_out(&mut self) {
        if self.is_leaderless() {
            return;
        }
        loop {
            let connections = &self.connections;
            let is_there = |pull: &Pull| connections[pull.connection].sid(&pull.reply).is_some();
            let Some(delivery) = self.jetstream.next(Instant::now(), is_there) else { return };
            let sequence = delivery.sequence;
            self.ledger().delivered(sequence, delivery.count);
            let reply = format!(
                "$JS.ACK.{STREAM}.{CONSUMER}.{}.{sequence}.{}.{}.0",
                delivery.count,
                delivery.consumer_sequence,
                EPOCH * 1_000_000
            );
            let stored = self.jetstream.messages[usize::try_from(sequence).unwrap() - 1].clone();
            let mut headers = stored.headers;
            if let Some(pin) = delivery.pin {
                headers.insert_str("NATS/1.0\r\n".len(), &format!("Nats-Pin-Id: {pin}\r\n"));
            }
            self.send(delivery.pull.connection, &delivery.pull.reply, SUBJECT, &reply, &headers, &stored.payload);
            if self.sabotage == Sabotage::AcksEarly && self.rng.u8(..4) == 0 {
                self.jetstream.acknowledge(sequence);
                self.ledger().acknowledged(sequence);
            }
        }
    }

    /// Sends a message to whoever is subscribed to `inbox`.
    fn send(&mut self, connection: usize, inbox: &str, subject: &str, reply: &str, headers: &str, payload: &[u8]) {
        let connection = &mut self.connections[connection];
        let Some(sid) = connection.sid(inbox) else { return };
        let total = headers.len() + payload.len();
        let line = match headers.is_empty() {
            true => format!("MSG {subject} {sid} {reply} {total}\r\n"),
            false => format!("HMSG {subject} {sid} {reply} {} {total}\r\n", headers.len()),
        };
        for part in [line.as_bytes(), headers.as_bytes(), payload, b"\r\n"] {
            connection.out.extend_from_slice(part);
        }
        connection.written.notify_one();
    }

    /// A client publishes.
    pub(in crate::dispatch::simulation) fn published(
        &mut self,
        connection: usize,
        subject: &str,
        reply: &str,
        headers: &[u8],
        payload: &[u8],
    ) {
        if let Some(rest) = subject.strip_prefix("$JS.ACK.") {
            self.answered(rest, &String::from_utf8_lossy(payload));
        } else if subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.") {
            self.pulled(connection, reply, payload);
        } else {
            self.appended(connection, subject, reply, headers, payload);
        }
        self.advance();
    }

    fn pulled(&mut self, connection: usize, reply: &str, request: &[u8]) {
        let request: Value = serde_json::from_slice(request).unwrap();
        let nanos = |name: &str| Duration::from_nanos(request[name].as_u64().unwrap());
        let (batch, now) = (request["batch"].as_u64().unwrap(), Instant::now());
        let held = self.health.as_ref().map_or(0, |health| health.standing().in_flight);
        self.ledger().pulled(batch, held);
        let pull = Pull {
            connection,
            reply: reply.to_owned(),
            left: batch,
            expires: now + nanos("expires"),
            heartbeat: nanos("idle_heartbeat"),
            heard: now,
            pin: request["id"].as_str().map(str::to_owned),
        };
        if self.is_leaderless() {
            self.say(&pull, "503");
        } else if !self.jetstream.pull(pull.clone(), now) {
            self.say(&pull, "423 Nats-Wrong-Pin-Id");
        }
    }

    /// A delivery is answered: `STREAM.CONSUMER.COUNT.SEQUENCE...`.
    fn answered(&mut self, place: &str, answer: &str) {
        let numbers: Vec<u64> = place.split('.').skip(2).map(|number| number.parse().unwrap()).collect();
        let (count, sequence) = (numbers[0], numbers[1]);
        let is_lost = self.is_leaderless() || (self.now() < self.loses_answers && self.chance(40));
        if is_lost || !self.jetstream.is_pending(sequence) {
            self.ledger().note("answer lost", sequence, 0);
            return;
        }
        let (now, in_time) = (Instant::now(), self.jetstream.is_awaited(sequence, count));
        match answer.split_once(' ').unwrap_or((answer, "")) {
            ("+ACK", _) => {
                self.jetstream.acknowledge(sequence);
                self.ledger().acknowledged(sequence);
            }
            ("+WPI", _) => {
                self.ledger().note("wpi", sequence, 0);
                self.jetstream.in_progress(sequence, now);
            }
            ("-NAK", "") => {
                self.jetstream.give_back(sequence, None, now);
                self.ledger().given_back(sequence, count, None, in_time);
            }
            ("-NAK", delay) => {
                let delay: Value = serde_json::from_str(delay).unwrap();
                let mut wait = Duration::from_nanos(delay["delay"].as_u64().unwrap());
                let millis = u64::try_from(wait.as_millis()).unwrap();
                self.ledger().given_back(sequence, count, Some(millis), in_time);
                if self.sabotage == Sabotage::HalvesWaits {
                    wait /= 2;
                }
                self.jetstream.give_back(sequence, Some(wait), now);
            }
            other => panic!("{other:?} answers a delivery"),
        }
    }

    /// Something is to be stored.
    fn appended(&mut self, connection: usize, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let text = String::from_utf8_lossy(headers).into_owned();
        let find = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let number = |id: &str| id[1..].parse::<u64>().unwrap();
        let sequence = match find("ce-id") {
            Some(id) => number(&id),
            None => find("Knats-Sequence").unwrap().parse().unwrap(),
        };
        let (now, id) = (self.now(), find("Nats-Msg-Id").unwrap());
        let (stream, window) = match subject {
            LETTER_SUBJECT => (dead_letter::STREAM, LETTERS_WINDOW),
            REPLIES => ("KN_REPLIES", CHANNEL_WINDOW),
            LETTERS => ("KN_LETTERS", CHANNEL_WINDOW),
            other => panic!("nobody expects anything on {other}"),
        };
        if subject == REPLIES {
            self.ledger().failed_elsewhere(sequence);
        }
        let refusal = if self.is_leaderless() {
            Some(("NATS/1.0 503\r\n\r\n", ""))
        } else if now < self.full {
            let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
            Some(("", full))
        } else {
            None
        };
        if let Some((headers, payload)) = refusal {
            if subject == LETTER_SUBJECT {
                self.ledger().keeping_failed(sequence);
            }
            return self.send(connection, reply, reply, "", headers, payload.as_bytes());
        }
        let log = match subject {
            LETTER_SUBJECT => &mut self.kept,
            REPLIES => &mut self.replies,
            _ => &mut self.letters,
        };
        let forgets = self.sabotage == Sabotage::ForgetsLetters && subject == LETTER_SUBJECT;
        let (at, duplicate) = match forgets {
            true => (1, false),
            false => log.store(&id, headers, payload, now, window),
        };
        let code = find("ce-knativeerrorcode").and_then(|code| code.parse().ok());
        match subject {
            _ if forgets => {}
            // One that was let go of since is not there.
            LETTER_SUBJECT if duplicate && !self.kept.messages.contains_key(&at) => {}
            _ if duplicate => self.ledger().is_safe("stored again", sequence),
            LETTER_SUBJECT => self.ledger().kept(sequence, code),
            REPLIES => self.ledger().is_safe("reply stored", sequence),
            _ => self.ledger().given_up("letter stored", sequence, code),
        }
        if now < self.loses_pub_acks && self.chance(60) {
            if subject == LETTER_SUBJECT {
                self.ledger().keeping_failed(sequence);
            }
            return;
        }
        let more = if duplicate { ",\"duplicate\":true" } else { "" };
        let answer = format!("{{\"stream\":\"{stream}\",\"seq\":{at}{more}}}");
        self.send(connection, reply, reply, "", "", answer.as_bytes());
    }
}

impl Connection {
    /// The number of the subscription that takes what is sent to `subject`, if the connection stands.
    fn sid(&self, subject: &str) -> Option<u64> {
        let takes = |pattern: &str| match pattern.strip_suffix(".*") {
            Some(prefix) => subject.rsplit_once('.').is_some_and(|(begin, _)| begin == prefix),
            None => pattern == subject,
        };
        let found = self.subscriptions.iter().find(|(_, pattern)| takes(pattern));
        found.filter(|_| self.alive).map(|(sid, _)| *sid)
    }
}
