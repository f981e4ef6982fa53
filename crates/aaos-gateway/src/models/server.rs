//! A server that the operator configured, by its URL.
//!
//! Invariants: a URL is parsed once, when the process starts, and holds no credentials.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use crate::dial::{DialError, Dialer, LOOPBACK, Layer, NameScope};

/// Where it is.
#[derive(Debug)]
pub(super) struct Server {
    host: Host<String>,
    pub(super) port: u16,
    pub(super) is_secure: bool,
    /// As the header `host` says it.
    pub(super) authority: String,
    /// Path without a slash at its end.
    pub(super) path: String,
}

impl Server {
    /// Reads the URL that the setting `name` holds; `instead` says where credentials belong.
    pub(super) fn parse(name: &str, url: &str, instead: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("{name} {url:?}: {error}"))?;
        let bad = |why: &str| format!("{name} of host {:?} {why}", url.host_str().unwrap_or_default());
        let is_secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("must begin with http:// or https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(&format!("may not hold credentials; {instead}")));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("may not hold a query or fragment"));
        }
        let (Some(host), Some(port)) = (url.host().map(|host| host.to_owned()), url.port_or_known_default())
        else {
            return Err(bad("names no host"));
        };
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let path = url.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port, is_secure, authority, path })
    }

    /// Its name or address.
    pub(super) fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    pub(super) fn layer(&self) -> Layer {
        if self.is_secure { Layer::Tls(self.host()) } else { Layer::Plain }
    }

    /// The operator configured this host, so any address of it will do.
    pub(super) async fn addresses(&self, dialer: &Dialer) -> Result<Vec<SocketAddr>, DialError> {
        let addresses = match &self.host {
            Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
            Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
            Host::Domain(name) if name == "localhost" => LOOPBACK.to_vec(),
            Host::Domain(name) => dialer.resolve(name, NameScope::Searched).await?,
        };
        Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect())
    }
}
