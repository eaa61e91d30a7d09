//! The first user: `admin`, with a one-time password that stands in a file until it is changed.

use std::path::Path;

use sensormesh_observability::Secret;
use sensormesh_types::{Author, Error, Result, Role, Scope, random};

use crate::key::write_private;
use crate::user::User;
use crate::{Auth, db};

const USERNAME: &str = "admin";

/// Makes the user `admin` in a database without users. The file is written before the account is committed, so that
/// there is never an account whose password nobody can know.
pub(crate) async fn make_admin(auth: &Auth) -> Result<()> {
    let mut read = auth.store.read(&Scope::system()).await?;
    let empty = !db::user::any(&mut read).await?;
    drop(read);
    if !empty {
        return Ok(());
    }
    let Some(path) = &auth.config.bootstrap_password_file else {
        tracing::warn!("there are no users, and auth.bootstrap_password_file is not set: no admin was made");
        return Ok(());
    };
    let (password, given) = match given_password(path)? {
        Some(password) => (password, true),
        None => (Secret::new(random::secret()), false),
    };
    let hash = auth.hasher.hash(password.clone()).await?;
    let now = auth.clock.now_micros();
    let admin = User {
        user_id: random::id(now),
        username: USERNAME.to_owned(),
        role: Role::PlatformAdmin,
        one_time: true,
        create_time: now,
        ..User::default()
    };
    let mut tx = auth.store.tx(&Scope::system()).await?;
    if !db::user::insert(&mut tx, &admin, &hash).await? {
        return Ok(()); // another replica was faster, and wrote its own file
    }
    if !given {
        write_private(path, &format!("{}\n", password.reveal()))?;
    }
    tx.append_for(admin.tenant.clone(), db::user_entry("user.created", &admin, Author::named("system")));
    tx.commit().await?;
    tracing::info!(path = %path.display(), "the user admin was made; its one-time password is in the file");
    Ok(())
}

/// A password that whoever runs the system has put there, or that an interrupted first start has left.
fn given_password(path: &Path) -> Result<Option<Secret<String>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("{} cannot be read: {error}", path.display());
            return Err(Error::precondition("NOT_READABLE", message).caused_by(error));
        }
    };
    match text.trim_end_matches(['\r', '\n']) {
        "" => Ok(None),
        short if short.len() < 8 => {
            Err(Error::precondition("PASSWORD_TOO_SHORT", format!("{} holds less than 8 bytes", path.display())))
        }
        password => Ok(Some(Secret::new(password.to_owned()))),
    }
}

/// Removes the file: the password in it is no longer the user's.
pub(crate) fn forget_password(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the file with the old one-time password could not be removed");
    }
}
