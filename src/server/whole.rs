//! Requests that have come whole, head and body in what a connection had at hand: they are read and answered here, which costs
//! less than by way of hyper, where head, body and answer go through queues of their own.
//!
//! Only the plainest form of HTTP/1.1 is read: a POST with at most one `Content-Length`, and nothing that changes how it is framed
//! or what its connection does. Whatever else comes goes to hyper, with the bytes that are here and the connection for good: so
//! hyper alone says what is a request and what is none, and nothing is read in two ways.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Handler;
use super::connection::{End, Ending};
use super::door::Stream;

/// What one read may bring at least, in bytes.
const READ: usize = 4 * 1024;
/// Room for several of them, so that a small request does not cost a buffer.
const BUFFER: usize = 8 * 1024;
/// The longest request, in bytes; longer ones seldom come whole.
const MAX_REQUEST: usize = 64 * 1024;
/// Headers of a request; hyper takes more.
const MAX_HEADERS: usize = 48;

/// Answers requests as long as they come whole and plain. Gives the bytes that the first other one begins with; `None` when the
/// connection is done with.
pub(super) async fn serve<H: Handler>(stream: &mut Stream, handler: &H, ending: &mut Ending<'_>) -> Option<Bytes> {
    let mut inbound = BytesMut::new();
    let mut outbound = Vec::new();
    loop {
        if inbound.is_empty() {
            read(stream, &mut inbound, ending).await?;
        }
        let bytes = inbound.split().freeze();
        let Some((request, length)) = request::<H>(&bytes) else { return Some(bytes) };
        // What was sent behind it without waiting for its answer.
        inbound.extend_from_slice(&bytes[length..]);
        drop(bytes);
        let running = ending.begin();
        let response = {
            let mut answer = std::pin::pin!(handler.clone().answer(request));
            loop {
                tokio::select! {
                    biased;
                    response = answer.as_mut() => break response,
                    end = ending.next() => if let End::Cut = end { return None },
                }
            }
        };
        outbound.clear();
        write(&mut outbound, response, ending.is_ending()).await?;
        send(stream, &outbound, ending).await?;
        drop(running);
        if ending.is_ending() {
            return None;
        }
    }
}

/// Reads what is there, once there is something.
async fn read(stream: &mut Stream, inbound: &mut BytesMut, ending: &mut Ending<'_>) -> Option<()> {
    if inbound.capacity() < READ {
        inbound.reserve(BUFFER);
    }
    loop {
        tokio::select! {
            // First, so that a request that had arrived before the shutdown is begun and not refused.
            biased;
            read = stream.read_buf(inbound) => match read {
                Ok(0) | Err(_) => return None,
                Ok(_) => break,
            },
            end = ending.next() => match end {
                End::Cut | End::Shutdown => return None,
                End::Look if ending.is_silent() => return None,
                End::Look => {}
            },
        }
    }
    while inbound.len() == inbound.capacity() && inbound.len() < MAX_REQUEST {
        inbound.reserve(inbound.len());
        match poll_immediate(stream.read_buf(inbound)).await {
            Some(Ok(0) | Err(_)) | None => break,
            Some(Ok(_)) => {}
        }
    }
    Some(())
}

/// Writes all of an answer, which is short. Gives it up when its reader has not taken it in the time that silence may last.
async fn send(stream: &mut Stream, outbound: &[u8], ending: &mut Ending<'_>) -> Option<()> {
    let sending = async {
        stream.write_all(outbound).await?;
        stream.flush().await
    };
    let mut sending = std::pin::pin!(sending);
    let mut looks = 0;
    loop {
        tokio::select! {
            biased;
            sent = sending.as_mut() => return sent.ok(),
            end = ending.next() => match end {
                End::Cut => return None,
                End::Look if looks > 0 => return None,
                End::Look => looks += 1,
                End::Shutdown => {}
            },
        }
    }
}

/// The request at the beginning, and how long it is; `None` when it is not whole or not plain.
pub(super) fn request<H: Handler>(bytes: &Bytes) -> Option<(Request<Full<Bytes>>, usize)> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(head_length)) = head.parse_with_uninit_headers(bytes, &mut fields) else {
        return None;
    };
    let target = head.path.filter(|target| target.starts_with('/'))?;
    if (head.method, head.version) != (Some("POST"), Some(1)) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    let mut length = None;
    for field in &*head.headers {
        let name = H::usual_header(field.name).or_else(|| HeaderName::try_from(field.name).ok())?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
        match name {
            CONTENT_LENGTH if length.is_none() => length = Some(number(field.value)?),
            CONNECTION if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            CONTENT_LENGTH | CONNECTION | EXPECT | TRANSFER_ENCODING | UPGRADE => return None,
            _ => {}
        }
        headers.try_append(name, value).ok()?;
    }
    let length = head_length.checked_add(length.unwrap_or(0))?;
    let body = (length <= bytes.len()).then(|| bytes.slice(head_length..length))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).ok()?;
    *request.headers_mut() = headers;
    Some((request, length))
}

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<usize> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// Writes an answer, as hyper would. `None` when its body breaks off.
async fn write<B>(outbound: &mut Vec<u8>, response: Response<B>, is_last: bool) -> Option<()>
where
    B: Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let reason = head.status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", head.status.as_str(), " ", reason, "\r\n"] {
        outbound.extend_from_slice(part.as_bytes());
    }
    let mut add = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            outbound.extend_from_slice(part);
        }
    };
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH) {
        add(name, value.as_bytes());
    }
    add(&CONTENT_LENGTH, itoa::Buffer::new().format(body.len()).as_bytes());
    if is_last {
        add(&CONNECTION, b"close");
    }
    now(|date| add(&DATE, date.as_bytes()));
    outbound.extend_from_slice(b"\r\n");
    outbound.extend_from_slice(&body);
    Some(())
}

/// The time as HTTP writes it (RFC 9110, section 5.6.7), written anew each second.
fn now(with: impl FnOnce(&str)) {
    thread_local! {
        static WRITTEN: RefCell<(i64, String)> = RefCell::default();
    }
    let now = Timestamp::now();
    WRITTEN.with_borrow_mut(|(written, text)| {
        if *written != now.as_second() {
            *written = now.as_second();
            *text = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        }
        with(text);
    });
}
