//! Which addresses deliveries may go to: all, or public ones only, so that nobody reaches the inside of a network by way of a URL
//! in a manifest. What is judged are the very addresses that are connected to, after the name was looked up.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Which addresses may be connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Guard {
    #[default]
    Any,
    /// What is public (the special-purpose registries of IANA for IPv4 and IPv6 say what is not), and these besides.
    Public(Vec<IpNet>),
}

/// An address that may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is at {address}, which is no public address: refused (--sink-addresses public; --sink-allow makes exceptions)"
)]
pub(super) struct Refused {
    host: String,
    address: IpAddr,
}

impl Refused {
    /// The refusal among the causes of an error.
    pub(super) fn in_causes_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        super::client::causes(error).find_map(|cause| cause.downcast_ref())
    }
}

impl Guard {
    /// Judges a URL whose host is an address; a name is judged when it is looked up.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.admits(address) { Ok(()) } else { Err(Refused { host: "the sink".to_owned(), address }) }
    }

    /// The addresses of a name that may be connected to; at least one, unless none was found at all.
    fn select(&self, host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let refused = found.iter().map(SocketAddr::ip).find(|address| !self.admits(*address));
        found.retain(|address| self.admits(address.ip()));
        match refused {
            Some(address) if found.is_empty() => Err(Refused { host: host.to_owned(), address }),
            _ => Ok(found),
        }
    }

    fn admits(&self, address: IpAddr) -> bool {
        let Self::Public(exceptions) = self else { return true };
        let canonical = address.to_canonical();
        is_public(address) || exceptions.iter().any(|net| net.contains(&address) || net.contains(&canonical))
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), length)
}

/// Metadata services of clouds are among the link-local and the shared addresses; the last but two is one that is not.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(168, 63, 129, 16, 32),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// All that is public in IPv6 is in here.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 3);
/// Protocol assignments (Teredo among them), and two for documentation.
const NOT_PUBLIC_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x3fff, 0, 20)];
/// IPv4 addresses are embedded in these: by translators (RFC 6052), and in 6to4 (RFC 3056).
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 16);

fn is_public(address: IpAddr) -> bool {
    let is_public_v4 = |address: Ipv4Addr| !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address));
    let address = match address.to_canonical() {
        IpAddr::V4(address) => return is_public_v4(address),
        IpAddr::V6(address) => address,
    };
    let [_, _, a, b, c, d, .., w, x, y, z] = address.octets();
    if NAT64.contains(&address) {
        return is_public_v4(Ipv4Addr::new(w, x, y, z));
    }
    if SIX_TO_FOUR.contains(&address) {
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    GLOBAL_UNICAST.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address))
}

/// Looks names up by the system, and lets nobody have an address that the guard does not admit.
#[derive(Debug, Clone)]
pub(super) struct Lookup(pub(super) Arc<Guard>);

type Found<A> = Pin<Box<dyn Future<Output = Result<A, Box<dyn Error + Send + Sync>>> + Send>>;

impl Lookup {
    async fn find(guard: Arc<Guard>, host: String) -> Result<vec::IntoIter<SocketAddr>, Box<dyn Error + Send + Sync>> {
        // The port is not the lookup's business.
        let found = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
        let admitted = guard.select(&host, found)?;
        Ok(admitted.into_iter())
    }
}

impl reqwest::dns::Resolve for Lookup {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let finding = Self::find(Arc::clone(&self.0), name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(finding.await?) as reqwest::dns::Addrs) })
    }
}

impl tower::Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Found<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(Self::find(Arc::clone(&self.0), name.as_str().to_owned()))
    }
}

/// Reads a network such as `10.0.0.0/8`, or one address.
///
/// # Errors
/// What was expected.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "expected a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(exceptions: &[&str]) -> Guard {
        Guard::Public(exceptions.iter().map(|text| parse_network(text).unwrap()).collect())
    }

    fn admits(guard: &Guard, address: &str) -> bool {
        guard.admits(address.parse().unwrap())
    }

    #[test]
    fn what_is_inside_is_not_public_however_it_is_written() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::127.0.0.1",
            "fc00::1",
            "fd00:ec2::254",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:0:5ef5:79fb::1",
            "2001:db8::1",
            "3fff::1",
            "4000::1",
            "64:ff9b:1::1",
            // IPv4 in IPv6: mapped, translated, 6to4.
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "64:ff9b::7f00:1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::192.168.1.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::1",
        ] {
            assert!(!admits(&guard(&[]), address), "{address}");
            assert!(admits(&Guard::Any, address), "{address}");
        }
    }

    #[test]
    fn what_is_public_is_admitted_up_to_the_edges() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
            "3ffe::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(admits(&guard(&[]), address), "{address}");
        }
    }

    #[test]
    fn exceptions_are_networks_or_addresses() {
        let guard = guard(&["10.1.0.0/16", "::1", "fd00::/8", "192.168.1.1"]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "::1", "fd00::5", "192.168.1.1"] {
            assert!(admits(&guard, address), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "192.168.1.2", "fc00::1"] {
            assert!(!admits(&guard, address), "{address}");
        }
        for text in ["", "10.0.0.0/33", "host", "10.0.0/8"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_a_name_with_many_addresses_only_those_admitted_are_left() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        let select = |texts| guard(&[]).select("sink", addresses(texts));
        assert_eq!(select(&["10.0.0.1", "1.1.1.1", "::1"]), Ok(addresses(&["1.1.1.1"])));
        let error = select(&["10.0.0.1", "::1"]).unwrap_err().to_string();
        assert!(error.contains("sink is at 10.0.0.1") && error.contains("--sink-allow"), "{error}");
        assert_eq!(select(&[]), Ok(Vec::new()));
    }

    #[test]
    fn an_address_in_a_url_is_judged_in_every_spelling() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://[::1]:80/",
            "https://[::ffff:7f00:1]/",
            "http://%31%32%37.0.0.1/",
            "http://u:p@169.254.169.254/latest",
        ] {
            assert!(guard(&[]).check(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        for url in ["http://localhost/", "http://1.1.1.1/", "http://sink.example/"] {
            assert_eq!(guard(&[]).check(&Url::parse(url).unwrap()), Ok(()), "{url}");
        }
    }
}
