//! What is handed over and where, by the variables of the OpenTelemetry specification.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use url::Url;

use super::encode;
use crate::telemetry::trace::Sampler;

/// The largest queue and batch of spans that can be asked for. A span takes about a kilobyte.
const MAX_SPANS: usize = 65_536;

/// What is exported where. Nothing, unless the environment names an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub(in crate::telemetry) traces: Option<Traces>,
    pub(super) metrics: Option<Metrics>,
    pub(super) resource: Resource,
}

#[derive(Debug, Clone)]
pub(in crate::telemetry) struct Traces {
    pub(super) endpoint: Endpoint,
    pub(in crate::telemetry) sampler: Sampler,
    /// Spans that may wait for the collector.
    pub(in crate::telemetry) queue: usize,
    /// Spans in one request.
    pub(super) batch: usize,
    /// How long the first span of a batch waits for others.
    pub(super) delay: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) endpoint: Endpoint,
    pub(super) interval: Duration,
}

/// Where one signal goes.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// For one request.
    pub(super) timeout: Duration,
}

/// A variable that cannot be meant so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}='{value}': expected {expected}")]
pub struct SettingsError {
    variable: String,
    value: String,
    expected: &'static str,
}

impl Settings {
    /// Reads the variables of the OpenTelemetry specification; an empty one counts as not set.
    ///
    /// # Errors
    /// The first variable that cannot be meant so.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let variables = Variables(&|name: &str| variable(name).filter(|value| !value.trim().is_empty()));
        if variables.get("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")) {
            return Ok(Self::default());
        }
        let traces = match variables.endpoint("TRACES", "v1/traces")? {
            None => None,
            Some(endpoint) => {
                let queue = variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?.clamp(1, MAX_SPANS as u64) as usize;
                let batch = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?.clamp(1, queue as u64) as usize;
                let delay = Duration::from_millis(variables.number("OTEL_BSP_SCHEDULE_DELAY", 5000)?);
                Some(Traces { endpoint, sampler: variables.sampler()?, queue, batch, delay })
            }
        };
        let metrics = match variables.endpoint("METRICS", "v1/metrics")? {
            None => None,
            Some(endpoint) => {
                let interval = Duration::from_millis(variables.number("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?.max(1));
                Some(Metrics { endpoint, interval })
            }
        };
        Ok(Self { traces, metrics, resource: variables.resource() })
    }
}

/// The environment, or what tests put in its place.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<(String, String)> {
        (self.0)(name).map(|value| (name.to_owned(), value.trim().to_owned()))
    }

    /// `OTEL_EXPORTER_OTLP_SIGNAL_NAME`, else `OTEL_EXPORTER_OTLP_NAME`.
    fn of(&self, signal: &str, name: &str) -> Option<(String, String)> {
        let own = self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_{name}"));
        own.or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn endpoint(&self, signal: &str, path: &str) -> Result<Option<Endpoint>, SettingsError> {
        match self.get(&format!("OTEL_{signal}_EXPORTER")) {
            Some((_, exporter)) if exporter == "none" => return Ok(None),
            Some((variable, value)) if value != "otlp" => {
                return Err(SettingsError { variable, value, expected: "otlp or none" });
            }
            _ => {}
        }
        let Some((variable, value)) = self.of(signal, "ENDPOINT") else { return Ok(None) };
        // That of one signal is used as it is, that of all has the signal's path added.
        let whole =
            if variable.contains(signal) { value.clone() } else { format!("{}/{path}", value.trim_end_matches('/')) };
        let url = Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let expected = "a URL such as http://127.0.0.1:4318";
        let url = url.ok_or(SettingsError { variable, value, expected })?;
        match self.of(signal, "PROTOCOL") {
            Some((variable, value)) if value != "http/protobuf" => {
                let expected = "http/protobuf, the one protocol that is supported; collectors take it at port 4318";
                return Err(SettingsError { variable, value, expected });
            }
            _ => {}
        }
        let timeout = match self.of(signal, "TIMEOUT") {
            Some((variable, _)) => self.number(&variable, 10_000)?.max(1),
            None => 10_000,
        };
        Ok(Some(Endpoint { url, headers: self.headers(signal)?, timeout: Duration::from_millis(timeout) }))
    }

    fn headers(&self, signal: &str) -> Result<HeaderMap, SettingsError> {
        let Some((variable, value)) = self.of(signal, "HEADERS") else { return Ok(HeaderMap::new()) };
        let headers: Option<HeaderMap> = pairs(&value)
            .map(|(name, value)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            })
            .collect();
        let expected = "NAME=VALUE,NAME=VALUE with values percent-coded";
        // The value may be a secret.
        headers.ok_or(SettingsError { variable, value: "...".to_owned(), expected })
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, SettingsError> {
        let Some((variable, value)) = self.get(name) else { return Ok(default) };
        value.parse().map_err(|_| SettingsError { variable, value, expected: "a whole number" })
    }

    fn sampler(&self) -> Result<Sampler, SettingsError> {
        let Some((variable, value)) = self.get("OTEL_TRACES_SAMPLER") else { return Ok(Sampler::default()) };
        let ratio = || match self.get("OTEL_TRACES_SAMPLER_ARG") {
            None => Ok(1.0),
            Some((variable, value)) => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(SettingsError { variable, value, expected: "a number from 0 to 1" }),
            },
        };
        let (of_parent, name) = value.strip_prefix("parentbased_").map_or((false, value.as_str()), |name| (true, name));
        match name {
            "always_on" => Ok(Sampler::new(of_parent, 1.0)),
            "always_off" => Ok(Sampler::new(of_parent, 0.0)),
            "traceidratio" => Ok(Sampler::new(of_parent, ratio()?)),
            _ => {
                let expected = "always_on, always_off, traceidratio, or one of these after parentbased_";
                Err(SettingsError { variable, value, expected })
            }
        }
    }

    fn resource(&self) -> Resource {
        let mut attributes = vec![
            ("service.name".to_owned(), "knats".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let given = self.get("OTEL_RESOURCE_ATTRIBUTES").map(|(_, value)| pairs(&value).collect::<Vec<_>>());
        let name = self.get("OTEL_SERVICE_NAME").map(|(_, name)| ("service.name".to_owned(), name));
        for (key, value) in given.unwrap_or_default().into_iter().chain(name) {
            attributes.retain(|(known, _)| *known != key);
            attributes.push((key, value));
        }
        Resource {
            attributes: attributes.iter().map(|(key, value)| encode::text(key, value)).collect(),
            ..Resource::default()
        }
    }
}

/// `KEY=VALUE,KEY=VALUE`, values percent-coded, as in W3C Baggage. What is no pair is left out.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), percent_decoded(value.trim())))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let coded = more.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match coded.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::read(find)
    }

    fn urls(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let settings = read(variables).unwrap();
        let traces = settings.traces.map(|traces| traces.endpoint.url.to_string());
        (traces, settings.metrics.map(|metrics| metrics.endpoint.url.to_string()))
    }

    fn some(traces: &str, metrics: &str) -> (Option<String>, Option<String>) {
        let url = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        (url(traces), url(metrics))
    }

    #[test]
    fn an_endpoint_turns_export_on() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/x/");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/own");
        assert_eq!(urls(&[]), some("", ""));
        assert_eq!(urls(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), some("", ""));
        assert_eq!(urls(&[all]), some("http://c:4318/x/v1/traces", "http://c:4318/x/v1/metrics"));
        assert_eq!(urls(&[all, traces]), some("https://t/own", "http://c:4318/x/v1/metrics"));
        assert_eq!(urls(&[traces]), some("https://t/own", ""));
        assert_eq!(urls(&[all, ("OTEL_TRACES_EXPORTER", "none")]), some("", "http://c:4318/x/v1/metrics"));
        assert_eq!(urls(&[all, ("OTEL_SDK_DISABLED", "true")]), some("", ""));
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_variable() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (name, value, part) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "c:4318", "a URL"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1s", "a whole number"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "a whole number"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c", "NAME=VALUE"),
        ] {
            let error = read(&[endpoint, (name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(part), "{error}");
        }
        let ratio = [endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert!(read(&ratio).unwrap_err().to_string().starts_with("OTEL_TRACES_SAMPLER_ARG='2'"));
        assert!(read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_ok(), "of no account without an endpoint");
    }

    #[test]
    fn headers_and_attributes_are_percent_decoded_and_headers_stay_secret() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let settings = read(&[
            endpoint,
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20eDp5, x-tenant = a%zz"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment=a%2Cb"),
            ("OTEL_SERVICE_NAME", "mine"),
        ])
        .unwrap();
        let headers = settings.traces.unwrap().endpoint.headers;
        assert_eq!(
            (headers["authorization"].as_bytes(), headers["x-tenant"].as_bytes()),
            (&b"Basic eDp5"[..], &b"a%zz"[..])
        );
        assert!(!format!("{headers:?}").contains("eDp5"));
        let expected = [
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("deployment.environment", "a,b"),
            ("service.name", "mine"),
        ];
        let expected: Vec<_> = expected.iter().map(|(key, value)| encode::text(key, value)).collect();
        assert_eq!(settings.resource.attributes, expected);
    }
}
