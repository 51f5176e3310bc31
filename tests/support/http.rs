//! HTTP/1.1 by hand, for both sides: tests must see what really came, and send what no decent client would.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::within;

/// A request or an answer as it came.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// `POST /path HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub start: String,
    /// In the order and with the case in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{}", self.start))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_else(|| panic!("{}", self.start))
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The `ce-` headers without `ce-`, by name; what equality of events is about in binary mode.
    pub fn attributes(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_lowercase().strip_prefix("ce-")?.to_owned(), value.clone())))
            .collect();
        all.sort();
        all
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// Reads one message; `None` when the other side has closed before one began.
pub async fn read_message(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Message>> {
    let Some(start) = read_line(from).await? else { return Ok(None) };
    let mut message = Message { start, ..Message::default() };
    loop {
        match read_line(from).await? {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(line) if line.is_empty() => break,
            Some(line) => {
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                message.headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
    message.body = read_body(from, &message).await?;
    Ok(Some(message))
}

async fn read_body(from: &mut (impl AsyncBufRead + Unpin), message: &Message) -> io::Result<Vec<u8>> {
    let is_answer = message.start.starts_with("HTTP/");
    let mut body = Vec::new();
    if is_answer && matches!(message.status(), 100..=199 | 204 | 304) {
        return Ok(body);
    }
    if message.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(from).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            let start = body.len();
            body.resize(start + size, 0);
            from.read_exact(&mut body[start..]).await?;
            read_line(from).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match message.header("content-length") {
        Some(length) => {
            body.resize(length.parse().map_err(|_| io::ErrorKind::InvalidData)?, 0);
            from.read_exact(&mut body).await?;
        }
        None if is_answer => {
            from.read_to_end(&mut body).await?;
        }
        None => {}
    }
    Ok(body)
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

/// A request to be sent on a connection of its own.
#[derive(Debug, Clone)]
pub struct Call {
    address: SocketAddr,
    head: Vec<u8>,
    host: String,
    body: Vec<u8>,
}

pub fn get(url: &str) -> Call {
    call("GET", url)
}

pub fn post(url: &str) -> Call {
    call("POST", url)
}

pub fn call(method: &str, url: &str) -> Call {
    let (address, path) = split_url(url);
    Call {
        address,
        head: format!("{method} {path} HTTP/1.1\r\n").into_bytes(),
        host: address.to_string(),
        body: Vec::new(),
    }
}

/// The address and the path of an `http://IP:PORT/PATH`.
pub fn split_url(url: &str) -> (SocketAddr, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("no http URL: {url}"));
    let slash = rest.find('/').unwrap_or(rest.len());
    let path = if slash == rest.len() { "/" } else { &rest[slash..] };
    (rest[..slash].parse().unwrap_or_else(|_| panic!("no address in {url}")), path)
}

impl Call {
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// The value goes out as these bytes, whatever they are.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.head.extend_from_slice(name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(value.as_ref());
        self.head.extend_from_slice(b"\r\n");
        self
    }

    pub fn headers(self, headers: &[(&str, &str)]) -> Self {
        headers.iter().fold(self, |call, (name, value)| call.header(name, value))
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn event(mut self, event: &Event) -> Self {
        for (name, value) in &event.headers {
            self = self.header(name, value);
        }
        self.body(event.body.clone())
    }

    /// Sends and gives the answer; the test fails when there is none.
    pub async fn send(self) -> Message {
        let what = String::from_utf8_lossy(&self.head).lines().next().unwrap_or_default().to_owned();
        match self.try_send().await {
            Ok(answer) => answer,
            Err(error) => panic!("no answer to {what}: {error}"),
        }
    }

    pub async fn try_send(self) -> io::Result<Message> {
        let address = self.address;
        exchange(address, &self.header("connection", "close").bytes()).await
    }

    /// Sends on a connection that stands, and leaves it open.
    pub async fn send_on(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Message> {
        exchange_on(stream, &self.bytes()).await
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = self.head;
        bytes.extend_from_slice(format!("host: {}\r\n", self.host).as_bytes());
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Sends bytes and reads one answer. An answer that comes before everything was sent counts.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Message> {
    within("a connection", async { exchange_on(&mut TcpStream::connect(address).await?, bytes).await }).await
}

async fn exchange_on(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<Message> {
    within("an HTTP answer", async {
        let (read, mut write) = tokio::io::split(stream);
        let sent = write.write_all(bytes);
        let mut read = BufReader::new(read);
        let received = read_message(&mut read);
        let (sent, received) = tokio::join!(sent, received);
        match received? {
            Some(answer) => Ok(answer),
            None => sent.and(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    })
    .await
}

/// A binary-mode event: version 1.0, source `/test`, type `test`, until told otherwise.
#[derive(Debug, Clone)]
pub struct Event {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub fn event(id: &str) -> Event {
    let event = Event { headers: Vec::new(), body: Vec::new() };
    event.attribute("specversion", "1.0").attribute("id", id).attribute("source", "/test").attribute("type", "test")
}

impl Event {
    /// Sets an attribute, overwriting an older value.
    pub fn attribute(self, name: &str, value: &str) -> Self {
        self.header(&format!("ce-{name}"), value)
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != format!("ce-{name}"));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn data(mut self, content_type: &str, data: impl Into<Vec<u8>>) -> Self {
        self.body = data.into();
        self.header("content-type", content_type)
    }
}
