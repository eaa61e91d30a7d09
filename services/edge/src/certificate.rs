//! The certificate of HTTPS, read again when it changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use sensormesh_mesh::{Shutdown, tls};
use sensormesh_types::{Error, Result};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Seen = [Option<SystemTime>; 2];

/// The certificate as it is in the files now. Clones share it.
#[derive(Clone, Debug)]
pub struct Certificate {
    files: [PathBuf; 2],
    current: Arc<ArcSwap<(Seen, Arc<ServerConfig>)>>,
}

impl Certificate {
    /// Reads a chain and its key. FAILED_PRECONDITION in words where one is missing or they do not belong together.
    pub fn load(chain: PathBuf, key: PathBuf) -> Result<Self> {
        let files = [chain, key];
        let current = Arc::new(ArcSwap::from_pointee(read(&files)?));
        Ok(Self { files, current })
    }

    /// What to accept the next connection with.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().1)
    }

    /// Reads the files again where they changed. Keeps what it has where the new ones are not good.
    pub fn reload(&self) -> Result<bool> {
        if modified(&self.files) == self.current.load().0 {
            return Ok(false);
        }
        self.current.store(Arc::new(read(&self.files)?));
        Ok(true)
    }

    /// Reads the files again whenever they change.
    pub async fn follow(self, shutdown: Shutdown) -> Result<()> {
        let mut refused = String::new();
        while shutdown.cut(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let certificate = self.clone();
            match tokio::task::spawn_blocking(move || certificate.reload()).await.map_err(Error::internal)? {
                Ok(true) => {
                    refused.clear();
                    tracing::info!("the certificate of HTTPS was read again");
                }
                Ok(false) => {}
                Err(error) if error.message() == refused => {}
                Err(error) => {
                    tracing::error!(%error, "the new certificate of HTTPS is not good; the old one stays");
                    error.message().clone_into(&mut refused);
                }
            }
        }
        Ok(())
    }
}

fn modified(files: &[PathBuf; 2]) -> Seen {
    files.each_ref().map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
}

fn read(files: &[PathBuf; 2]) -> Result<(Seen, Arc<ServerConfig>)> {
    let seen = modified(files);
    let refuse = |file: &PathBuf, cause: &dyn std::fmt::Display| {
        Error::precondition("CERTIFICATE", format!("{}: {cause}", file.display()))
    };
    let [chain_file, key_file] = files;
    let text = |file: &PathBuf| std::fs::read(file).map_err(|error| refuse(file, &error));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text(chain_file)?)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| refuse(chain_file, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&text(key_file)?).map_err(|error| refuse(key_file, &error))?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::internal)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| refuse(chain_file, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((seen, Arc::new(config)))
}
