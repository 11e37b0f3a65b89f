//! Room: the way to the region's Redis: a server, the master that sentinels name, or a cluster; with TLS by the certificates of the machine or
//! of an authority of one's own. Called by the driver, the reader and the log. What is answered names no password.

use std::time::Duration;

use config::Redis;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};

/// A connection. Clones share it; commands of all of them are pipelined.
#[derive(Clone)]
pub(super) enum Conn {
    /// To one server.
    One(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Conn {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Conn::One(conn) => conn.req_packed_command(cmd),
            Conn::Cluster(conn) => conn.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Conn::One(conn) => conn.req_packed_commands(pipeline, offset, count),
            Conn::Cluster(conn) => conn.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Conn::One(conn) => conn.get_db(),
            Conn::Cluster(conn) => conn.get_db(),
        }
    }
}

/// Connects, within `timeout`; each answer may then take as long.
///
/// # Errors
/// What Redis, the network or TLS says.
pub(super) async fn connect(config: &Redis, timeout: Duration) -> RedisResult<Conn> {
    let connected = tokio::time::timeout(timeout, reach(config, timeout)).await;
    connected.unwrap_or_else(|_| Err(late(timeout)))
}

/// It took too long.
pub(super) fn late(timeout: Duration) -> RedisError {
    let words = format!("nothing within {timeout:?}");
    (ErrorKind::Io, "no answer", words).into()
}

async fn reach(config: &Redis, timeout: Duration) -> RedisResult<Conn> {
    let nowhere = || RedisError::from((ErrorKind::InvalidClientConfig, "no URL"));
    let url = config.url.as_ref().ok_or_else(nowhere)?;
    let certificates = match &config.authority {
        Some(file) if url.is_tls() => Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(tokio::fs::read(file).await.map_err(|cause| {
                let cause = format!("{}: {cause}", file.display());
                RedisError::from((ErrorKind::InvalidClientConfig, "the authority", cause))
            })?),
        }),
        _ => None,
    };
    let numbers = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout));
    let info = url.expose().into_connection_info()?;
    if config.cluster {
        let mut builder = ClusterClient::builder([info])
            .retries(0)
            .connection_timeout(timeout)
            .response_timeout(timeout);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        return Ok(Conn::Cluster(builder.build()?.get_async_connection().await?));
    }
    if config.sentinels.is_empty() {
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates)?,
            None => Client::open(info)?,
        };
        return Ok(Conn::One(client.get_multiplexed_async_connection_with_config(&numbers).await?));
    }
    let places = config.sentinels.iter().filter_map(|at| place(at, url.is_tls()));
    let mut builder = SentinelClientBuilder::new(places, url.host(), SentinelServerType::Master)?
        .set_client_to_redis_db(info.redis_settings().db());
    if url.is_tls() {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    if let Some(user) = info.redis_settings().username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = info.redis_settings().password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(password) = &config.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    Ok(Conn::One(builder.build()?.get_async_connection_with_config(&numbers).await?))
}

/// A sentinel's address, which the configuration has checked.
fn place(at: &str, tls: bool) -> Option<ConnectionAddr> {
    let (host, port) = at.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let port = port.parse().ok()?;
    Some(match tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    })
}
