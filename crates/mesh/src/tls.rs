//! Mutual TLS with SPIFFE ids: one provider, TLS 1.3, both sides proven, nothing resumed, certificates read again when
//! they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sensormesh_observability::metrics;
use sensormesh_types::{Error, Result};

use crate::{Identity, Shutdown};

mod verify;

pub(crate) use verify::identity_of;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The one provider of cryptography: aws-lc, with its post-quantum key exchange first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// A service's certificate and whom it trusts, as they are in the files now.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    files: [PathBuf; 3],
    identity: Identity,
    current: ArcSwap<Material>,
}

struct Material {
    seen: [Option<SystemTime>; 3],
    /// From when to when the certificate is good, seconds since the Unix epoch.
    validity: (i64, i64),
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads `ca.pem`, `<service>.pem` and `<service>-key.pem`. FAILED_PRECONDITION in words where one is missing, does
    /// not fit the others, or is for another identity.
    pub fn load(dir: &Path, identity: &Identity) -> Result<Credentials> {
        let name = &identity.service;
        let files = ["ca.pem".to_owned(), format!("{name}.pem"), format!("{name}-key.pem")].map(|file| dir.join(file));
        let material = Material::read(&files, identity)?;
        material.tell(name);
        Ok(Self(Arc::new(Inner { files, identity: identity.clone(), current: ArcSwap::from_pointee(material) })))
    }

    /// What to accept connections with, now.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.load().server)
    }

    /// What to connect to `upstream` with, now: its certificate must be of our authority and name exactly this identity.
    pub fn client(&self, upstream: &Identity) -> Result<Arc<ClientConfig>> {
        let material = self.0.current.load();
        let verifier = verify::ServerVerifier::new(Arc::clone(&material.roots), upstream.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::internal)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
            .map_err(Error::internal)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Which share of the certificate's life is left at a time, seconds since the Unix epoch: 0 to 1.
    #[allow(clippy::cast_precision_loss)] // of no weight here
    pub fn life_left(&self, now: i64) -> f64 {
        let (from, to) = self.0.current.load().validity;
        ((to - now) as f64 / (to - from).max(1) as f64).clamp(0.0, 1.0)
    }

    /// Reads the files again if they changed. Keeps what it has where the new ones are not good.
    pub fn reload(&self) -> Result<bool> {
        if modified(&self.0.files) == self.0.current.load().seen {
            return Ok(false);
        }
        let material = Material::read(&self.0.files, &self.0.identity)?;
        material.tell(&self.0.identity.service);
        self.0.current.store(Arc::new(material));
        Ok(true)
    }

    /// Reads the files again whenever they change, until `shutdown`.
    pub(crate) async fn watch(self, shutdown: Shutdown) {
        let mut refused = None;
        while shutdown.cut(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if modified(&self.0.files) == self.0.current.load().seen {
                continue;
            }
            let credentials = self.clone();
            match tokio::task::spawn_blocking(move || credentials.reload()).await {
                Ok(Ok(true)) => {
                    refused = None;
                    tracing::info!(identity = %self.0.identity, "the certificate was read again");
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    let message = error.to_string();
                    if refused.as_ref() != Some(&message) {
                        tracing::error!(?error, "the new certificate is not good; the old one stays");
                        refused = Some(message);
                    }
                }
                Err(error) => tracing::error!(%error, "reading the certificate again did not end"),
            }
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.0.identity)
    }
}

impl Material {
    /// Shows when the certificate ends.
    fn tell(&self, service: &str) {
        metrics::certificate_end(service).show(u64::try_from(self.validity.1).unwrap_or_default());
    }

    fn read(files: &[PathBuf; 3], identity: &Identity) -> Result<Material> {
        let seen = modified(files);
        let [ca, certificate, key] = files;
        let bytes = |path: &PathBuf| fs::read(path).map_err(|e| refuse(path, e));
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&bytes(ca)?) {
            roots.add(root.map_err(|e| refuse(ca, e))?).map_err(|e| refuse(ca, e))?;
        }
        let chain = CertificateDer::pem_slice_iter(&bytes(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| refuse(certificate, e))?;
        let key_der = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|e| refuse(key, e))?;
        let Some(leaf) = chain.first() else {
            return Err(refuse(certificate, std::io::Error::other("holds no certificate")));
        };
        let (found, validity) = verify::read(leaf).map_err(|e| refuse(certificate, e))?;
        if found != *identity {
            return Err(refuse(certificate, std::io::Error::other(format!("is for {found}, not for {identity}"))));
        }
        let roots = Arc::new(roots);
        verify::chain(&roots, &chain).map_err(|e| refuse(certificate, e))?;
        let verifier = verify::ClientVerifier::new(Arc::clone(&roots), identity.trust_domain.clone())?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::internal)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain.clone(), key_der.clone_key())
            .map_err(|e| refuse(key, e))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // a resumed session would show the identity of an earlier certificate
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Material { seen, validity, chain, key: key_der, roots, server: Arc::new(server) })
    }
}

fn modified(files: &[PathBuf; 3]) -> [Option<SystemTime>; 3] {
    files.each_ref().map(|file| fs::metadata(file).and_then(|m| m.modified()).ok())
}

fn refuse(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::precondition("CERTIFICATE", format!("{}: {cause}", path.display())).caused_by(cause)
}
