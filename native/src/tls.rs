//! Certificates: the server's, which are read again at each connection when their files changed, and the name in a client's.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

type Contents = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Where the PEM files lie, and what they held last.
pub struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    known: Mutex<(Contents, Arc<ServerConfig>)>,
}

impl Certificates {
    /// Read the files for the first time.
    pub fn open(certificate: PathBuf, key: PathBuf, client_ca: Option<PathBuf>) -> io::Result<Self> {
        let contents = read(&certificate, &key, client_ca.as_ref())?;
        let config = Arc::new(configure(&contents)?);
        Ok(Self { certificate, key, client_ca, known: Mutex::new((contents, config)) })
    }

    /// Return what a new connection is served with; files that cannot be used leave it as it was.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Ok(contents) = read(&self.certificate, &self.key, self.client_ca.as_ref()) {
            if contents != known.0 {
                if let Ok(config) = configure(&contents) {
                    *known = (contents, Arc::new(config));
                }
            }
        }
        known.1.clone()
    }
}

fn read(certificate: &PathBuf, key: &PathBuf, client_ca: Option<&PathBuf>) -> io::Result<Contents> {
    Ok((std::fs::read(certificate)?, std::fs::read(key)?, client_ca.map(std::fs::read).transpose()?))
}

fn configure((certificate, key, client_ca): &Contents) -> io::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in chain(pem)? {
                roots.add(authority).map_err(io::Error::other)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
    let mut config = builder.with_single_cert(chain(certificate)?, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn chain(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(io::Error::other)
}

/// Return who a client's certificate was made out to: its first alternative name, or its common name.
pub fn name_in(certificate: &[u8]) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return String::new() };
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let first = alternatives.and_then(|names| names.value.general_names.iter().find_map(text));
    first.unwrap_or_else(|| {
        let common = parsed.subject().iter_common_name().next();
        common.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
    })
}

fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => Some((*text).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    }
}
