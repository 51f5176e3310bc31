//! One poll: the request with its secrets, and the value that is picked out of the answer. What goes wrong is said without
//! the URL's query and without the secrets.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde::de::IgnoredAny;

use super::pointer::Pointer;
use crate::sink::client::{self, Answer, Client, Url};

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// The largest file with a secret, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// What is polled.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client,
    url: Url,
    headers: Vec<Secret>,
    query: Vec<Secret>,
    pointer: Option<Pointer>,
}

/// A name whose value is in a file, so that it is in no list of processes and in no environment. `NAME=PATH` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The data of an event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) data: Bytes,
    /// `None` when the answer does not say and the data is no JSON.
    pub(crate) content_type: Option<String>,
}

impl Api {
    pub(crate) fn new(
        url: Url,
        headers: Vec<Secret>,
        query: Vec<Secret>,
        pointer: Option<Pointer>,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let client = Client::with(timeout, None).context("cannot set up the HTTP client")?;
        Ok(Self { client, url, headers, query, pointer })
    }

    /// The URL as it may be shown.
    pub(crate) fn shown(&self) -> String {
        crate::cli::sender::shown(&self.url)
    }

    /// Asks once. The files with secrets are read each time: they may change.
    ///
    /// # Errors
    /// Says what is wrong with the secrets, the exchange or the answer.
    pub(crate) async fn fetch(&self) -> Result<Reading, String> {
        let mut url = self.url.clone();
        for secret in &self.query {
            let value = secret.read().await?;
            url.query_pairs_mut().append_pair(&secret.name, &value);
        }
        let mut request = self.client.get(url);
        for secret in &self.headers {
            let (name, value) = secret.header().await?;
            request = request.header(name, value);
        }
        let answer = client::exchange(request, MAX_ANSWER).await.map_err(|error| error.0)?;
        self.read(answer)
    }

    /// Reads every secret once, so that a missing file is known at the start.
    pub(crate) async fn check_secrets(&self) -> Result<(), String> {
        for secret in &self.query {
            secret.read().await?;
        }
        for secret in &self.headers {
            secret.header().await?;
        }
        Ok(())
    }

    fn read(&self, answer: Answer) -> Result<Reading, String> {
        if answer.status.is_redirection() {
            return Err(format!("answered {}; redirects are not followed", answer.status));
        }
        if !answer.status.is_success() {
            return Err(format!("answered {}, expected 2xx", answer.status));
        }
        if answer.truncated {
            return Err(format!("the answer is larger than {MAX_ANSWER} bytes"));
        }
        let Some(pointer) = &self.pointer else {
            let stated = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let content_type = stated.map(str::to_owned).or_else(|| json_type(&answer.body));
            return Ok(Reading { data: answer.body, content_type });
        };
        let document = std::str::from_utf8(&answer.body).map_err(|_| "the answer is not UTF-8 text".to_owned())?;
        let value = pointer.pick(document)?;
        Ok(Reading { data: answer.body.slice_ref(value.as_bytes()), content_type: Some("application/json".into()) })
    }
}

fn json_type(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<IgnoredAny>(body).ok().map(|_| "application/json".to_owned())
}

impl Secret {
    /// The content of the file without the line end that editors put there.
    async fn read(&self) -> Result<String, String> {
        use tokio::io::AsyncReadExt as _;
        let fault = |what: String| format!("secret '{}' in {}: {what}", self.name, self.path.display());
        let file = tokio::fs::File::open(&self.path).await.map_err(|error| fault(error.to_string()))?;
        let mut text = String::new();
        file.take(MAX_SECRET + 1).read_to_string(&mut text).await.map_err(|error| fault(error.to_string()))?;
        if text.len() as u64 > MAX_SECRET {
            return Err(fault(format!("larger than {MAX_SECRET} bytes")));
        }
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn header(&self) -> Result<(HeaderName, HeaderValue), String> {
        let name = HeaderName::from_str(&self.name).map_err(|_| format!("'{}' is no name of a header", self.name))?;
        let mut value = HeaderValue::from_str(&self.read().await?)
            .map_err(|_| format!("secret '{}' in {}: cannot be a header's value", self.name, self.path.display()))?;
        value.set_sensitive(true);
        Ok((name, value))
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err("expected NAME=PATH, the file that holds the value".into()),
        }
    }
}
