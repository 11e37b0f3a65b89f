//! Speaking to the admin API: who asks, where, and what a refusal looks like. Used by `ctl` and `user`.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::Refusal;
use crate::http::client::Client;

/// The options that every command over the admin API has.
#[derive(clap::Args)]
#[command(next_help_heading = "Where and as whom")]
pub(super) struct Target {
    /// The HTTP port of a node [env: PANGAEA_URL] [default: http://127.0.0.1:5280]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// An account of admin.accounts [env: PANGAEA_USER]
    #[arg(long, global = true, value_name = "ACCOUNT")]
    user: Option<String>,
    /// Its password; other users of this machine can see it here [env: PANGAEA_PASSWORD]
    #[arg(long, global = true, value_name = "PASSWORD", conflicts_with = "password_file")]
    password: Option<String>,
    /// A file whose first line is the password [env: PANGAEA_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// The admin API of one node.
pub(super) struct Remote {
    client: Client,
}

impl Target {
    pub(super) fn remote(self) -> miette::Result<Remote> {
        let or_env = |given: Option<String>, name: &str| given.or_else(|| std::env::var(name).ok());
        let url = or_env(self.url, "PANGAEA_URL");
        let url = url.unwrap_or_else(|| "http://127.0.0.1:5280".to_owned());
        let client = Client::new(&url).map_err(|cause| miette::miette!("{cause}"))?;
        let user = or_env(self.user, "PANGAEA_USER").ok_or_else(|| {
            miette::miette!(
                help = "after `pangaea quickstart` it is admin@pangaea.localhost, wonderland",
                "as whom? --user ACCOUNT and --password, or PANGAEA_USER and PANGAEA_PASSWORD"
            )
        })?;
        let file = self.password_file.or_else(|| {
            std::env::var_os("PANGAEA_PASSWORD_FILE")
                .filter(|_| self.password.is_none())
                .map(PathBuf::from)
        });
        let password = match file {
            Some(file) => first_line(&file)?,
            None => or_env(self.password, "PANGAEA_PASSWORD")
                .ok_or_else(|| miette::miette!("no password: --password or --password-file"))?,
        };
        Ok(Remote { client: client.with_user(&user, &password) })
    }
}

fn first_line(file: &std::path::Path) -> miette::Result<String> {
    let text = std::fs::read_to_string(file)
        .map_err(|cause| miette::miette!("cannot read {}: {cause}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl Remote {
    /// What a path says.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> miette::Result<T> {
        self.ask("GET", path, None::<()>).await
    }

    /// What is answered to `body`; a refusal is an error.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<impl Serialize>,
    ) -> miette::Result<T> {
        let answer = self.try_ask(method, path, body).await?;
        answer.map_err(|refusal| miette::miette!("refused: {}", refusal.message))
    }

    /// What is answered to `body`; a refusal is an answer.
    pub(super) async fn try_ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<impl Serialize>,
    ) -> miette::Result<Result<T, Refusal>> {
        let body = body.map(|body| serde_json::to_vec(&body).expect("our own values are JSON"));
        let reply = self
            .client
            .ask(method, path, body)
            .await
            .map_err(|cause| miette::miette!("{cause}"))?;
        if reply.status == 200 {
            return serde_json::from_slice(&reply.body).map(Ok).map_err(|cause| {
                miette::miette!(
                    "{} answered what is not understood: {cause}",
                    self.client.authority()
                )
            });
        }
        match serde_json::from_slice::<Refusal>(&reply.body) {
            Ok(refusal) => Ok(Err(refusal)),
            Err(_) => Err(miette::miette!(
                help = "is this the HTTP port of a node?",
                "{} answered {}",
                self.client.authority(),
                reply.status
            )),
        }
    }
}
