//! From a server's address to a connection on which it has taken us in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::frame::{self, Frame, Next};
use super::identity::{Identity, Info};
use super::servers::{Server, Servers};
use super::tls::Tls;
use crate::channel::connect::{CONNECT_TIMEOUT, reconnect_delay};

/// Makes connections, one after the other.
pub(super) struct Dialer {
    pub(super) servers: Servers,
    pub(super) identity: Identity,
    /// The server begins with TLS and greets after it.
    pub(super) tls_first: bool,
    pub(super) tls: Tls,
    /// In place of a network.
    #[cfg(test)]
    pub(super) simulated: Option<super::SimulatedServer>,
}

/// A server that has taken us in.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// What has come already.
    pub(super) inbound: BytesMut,
    pub(super) server: Server,
    pub(super) info: Info,
}

impl Dialer {
    /// Tries one server after the other, for ever. Each reason why it fails is told once.
    pub(super) async fn connect(&mut self) -> Connected {
        /// Reasons that are remembered.
        const MAX_TOLD: usize = 32;
        let mut told: Vec<String> = Vec::new();
        let mut attempt = 0_usize;
        loop {
            attempt = attempt.saturating_add(1);
            tokio::time::sleep(reconnect_delay(attempt)).await;
            let server = self.servers.next();
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, self.dial(&server)).await;
            let error = match dialled {
                Ok(Ok(connected)) => {
                    self.servers.discovered(&server, &connected.info.connect_urls);
                    return connected;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
            };
            let reason = format!("{}:{}: {error}", server.host, server.port);
            if !told.contains(&reason) && told.len() < MAX_TOLD {
                tracing::warn!(error = reason, "cannot connect to NATS, still trying");
                told.push(reason);
            }
        }
    }

    async fn dial(&self, server: &Server) -> io::Result<Connected> {
        #[cfg(test)]
        if let Some(dial) = &self.simulated {
            let (mut stream, mut inbound) = (Stream::Simulated(dial()?), BytesMut::new());
            let info = greeting(&mut stream, &mut inbound).await?;
            return self.enter(stream, inbound, info, server).await;
        }
        let mut tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
        // Bursts are written whole; what is left to gain by waiting is only delay.
        tcp.set_nodelay(true)?;
        let mut inbound = BytesMut::new();
        let (stream, info) = if self.tls_first {
            let mut stream = Stream::Tls(Box::new(self.tls.wrap(tcp, &server.name).await?));
            let info = greeting(&mut stream, &mut inbound).await?;
            (stream, info)
        } else {
            let info = greeting(&mut tcp, &mut inbound).await?;
            let stream = match server.tls || info.tls_required {
                true if !inbound.is_empty() => return Err(io::Error::other("it sent more than INFO before TLS")),
                true => Stream::Tls(Box::new(self.tls.wrap(tcp, &server.name).await?)),
                false => Stream::Plain(tcp),
            };
            (stream, info)
        };
        self.enter(stream, inbound, info, server).await
    }

    /// Says who we are, and waits to be taken in.
    async fn enter(
        &self,
        mut stream: Stream,
        mut inbound: BytesMut,
        info: Info,
        server: &Server,
    ) -> io::Result<Connected> {
        let tls = matches!(stream, Stream::Tls(_));
        let hello = format!("{}PING\r\n", self.identity.connect(&info, tls)?);
        stream.write_all(hello.as_bytes()).await?;
        stream.flush().await?;
        loop {
            match receive(&mut stream, &mut inbound).await? {
                Frame::Pong => return Ok(Connected { stream, inbound, server: server.clone(), info }),
                Frame::Error(text) => return Err(io::Error::other(text)),
                Frame::Ping => stream.write_all(b"PONG\r\n").await?,
                Frame::Info(_) | Frame::Ok => {}
                other @ Frame::Message(_) => return Err(unexpected("PONG", &other)),
            }
        }
    }
}

/// What the server says of itself first.
async fn greeting(stream: &mut (impl AsyncRead + Unpin), inbound: &mut BytesMut) -> io::Result<Info> {
    match receive(stream, inbound).await? {
        Frame::Info(json) => Ok(serde_json::from_slice::<Info>(&json)?),
        other => Err(unexpected("INFO", &other)),
    }
}

/// The next thing that the server says.
async fn receive(stream: &mut (impl AsyncRead + Unpin), inbound: &mut BytesMut) -> io::Result<Frame> {
    loop {
        if let Next::Frame(frame) = frame::next(inbound).map_err(io::Error::other)? {
            return Ok(frame);
        }
        if stream.read_buf(inbound).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
    }
}

fn unexpected(expected: &str, frame: &Frame) -> io::Error {
    io::Error::other(format!("expected {expected} of the server, got {frame:?}"))
}

/// The way to the server, plain or in TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Simulated(tokio::io::DuplexStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(test)]
            Self::Simulated(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Simulated(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(test)]
            Self::Simulated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(test)]
            Self::Simulated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
