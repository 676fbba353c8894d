//! A connection of this process with itself: what is read from a tunnel can be a tunnel's transport.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::dial::{connect, inside, within};
use super::{ListenOptions, listen};

/// Nobody else is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two ends of a connection over loopback, in the agent's own network namespace.
///
/// # Errors
/// The process may have no more sockets, or its namespace has no loopback.
pub async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let options = ListenOptions { inside: true, ..ListenOptions::default() };
    let listener = TcpListener::from_std(listen((Ipv4Addr::LOCALHOST, 0).into(), options)?)?;
    within(PATIENCE, async {
        let address = listener.local_addr()?;
        let near = connect(inside(address)?, address).await?.stream;
        let own = near.local_addr()?;
        // Others in the namespace can connect, too.
        loop {
            let (far, client) = listener.accept().await?;
            if client == own {
                return Ok((near, far));
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_goes_in_at_one_end_comes_out_at_the_other() {
        let (mut near, mut far) = pair().await.unwrap();
        near.write_all(b"there").await.unwrap();
        far.write_all(b"back").await.unwrap();
        let (mut there, mut back) = ([0; 5], [0; 4]);
        far.read_exact(&mut there).await.unwrap();
        near.read_exact(&mut back).await.unwrap();
        assert_eq!((&there, &back), (b"there", b"back"));
        drop(near);
        assert_eq!(far.read(&mut there).await.unwrap(), 0);
    }
}
