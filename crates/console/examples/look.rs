//! Shows the pages in a browser, over a made-up story: `cargo run -p tranche-console --example look`, then <http://127.0.0.1:8080/>.
//!
//! There is no TLS and no login here; whoever opens it is an administrator, or what the first argument says.

#[path = "../tests/it/fixture.rs"]
mod fixture;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use fixture::{Fake, World};
use tranche_console::Visitor;
use tranche_core::access::Role;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().and_then(|role| role.parse().ok()).unwrap_or(Role::Admin);
    let mut world = match arguments.next().as_deref() {
        Some("large") => World::of_size(100, 8, 5_000, ""),
        _ => World::small(""),
    };
    world.is_endless = true;
    let visitor = Visitor { name: "maria".to_owned(), role, is_limited: false, csrf: "example".to_owned() };
    let look = move |mut request: Request, next: Next| {
        request.extensions_mut().insert(visitor.clone());
        next.run(request)
    };
    let pages = tranche_console::router(Fake::new(world).rest()).layer(from_fn(look));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 8080)).await?;
    axum::serve(listener, pages).await
}
