//! What changes while the program runs: listed, taken up whole, or refused whole.

use nix::sys::signal::Signal;
use pgtenant::registry::Admin;

use crate::support::{Child, Start, Wire, connect, one, proxy, refusal, unique, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_what_it_changed_and_what_takes_a_restart() {
    let mut child = Child::serve(world().await, "[timeouts]\nclient_idle = \"60s\"").await;
    child.configure(
        "[timeouts]\nclient_idle = \"1m\"\nstatement = \"2h\"\n[log]\nformat = \"json\"\n[http]\naddress = \"\"\ntoken = \"hushhush\"",
    );
    child.signal(Signal::SIGHUP);
    let pending = child.logged("takes effect only after a restart").await;
    assert!(pending.contains("log.format"), "{pending}");
    let changed = child.logged("reloaded").await;
    assert!(changed.contains("timeouts.statement (default to \\\"2h\\\"), http.token"), "{changed}");
    assert!(!changed.contains("client_idle") && !changed.contains("hushhush"), "{changed}");
    child.signal(Signal::SIGHUP);
    let again = child.logged("reloaded").await;
    assert!(again.contains("\"nothing\""), "{again}");
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_anything_wrong_is_refused_whole() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("whole"), &["crm"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tenants.toml");
    let contents = Admin::connect(&world.registry).await.unwrap().contents().await.unwrap();
    let good = contents.to_toml().unwrap();
    std::fs::write(&file, &good).unwrap();
    let environment = [("PGTENANT_REGISTRY_FILE", file.to_str().unwrap())];
    let start = Start { environment: &environment, ..Start::default() };
    let mut child = Child::start("postgres://nobody@nowhere/none", start).await;
    let mut client = Wire::login(child.address, &tenant, "crm").await;

    child.configure("[timeouts]\nclient_idle = \"1ms\"\n[identify]\nparameters = [\"\"]");
    child.signal(Signal::SIGHUP);
    child.logged("not reloaded, nothing has changed").await;
    child.configure("[timeouts]\nclient_idle = \"1ms\"");
    std::fs::write(&file, format!("{good}\n[[tenant]]\nid = 7\n")).unwrap();
    child.signal(Signal::SIGHUP);
    assert!(child.logged("not reloaded, nothing has changed").await.contains("read the registry again"));
    assert_eq!(client.ask("SELECT 'still here'").await, "still here");

    // Had any of that been applied, it would be from 1ms now.
    child.configure("[timeouts]\nclient_idle = \"1h\"");
    std::fs::write(&file, good.replace("status = \"active\"", "status = \"suspended\"")).unwrap();
    child.signal(Signal::SIGHUP);
    let reloaded = child.logged("reloaded").await;
    assert!(reloaded.contains("timeouts.client_idle (default to \\\"1h\\\")"), "{reloaded}");
    // The registry file was read again, too.
    client.until_ended().await;
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_unasked_where_that_is_wanted() {
    let mut child = Child::serve(world().await, "[reload]\nwatch = \"20ms\"").await;
    child.configure("[reload]\nwatch = \"20ms\"\n[timeouts]\nstatement = \"1h\"");
    assert!(child.logged("reloaded").await.contains("timeouts.statement"));
    child.configure("[reload]\nwatch = \"20ms\"\n[timeouts]\nstatment = \"1h\"");
    child.logged("not reloaded, nothing has changed").await;
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_clients_is_changed_by_reload() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("number"), &["crm"]).await;
    let proxy = proxy(world, |config| config.listen.max_clients = 1).await;
    let limited = |clients| {
        let mut config = crate::support::settings();
        config.listen.max_clients = clients;
        config
    };
    let first = proxy.connect(&tenant, "crm").await;
    let refused = connect(&proxy.config(&tenant, "crm")).await.expect_err("full");
    assert!(refusal(&refused).1.contains("max_clients = 1"));
    proxy.proxy.reload(&limited(2)).unwrap();
    let second = proxy.connect(&tenant, "crm").await;
    proxy.proxy.reload(&limited(1)).unwrap();
    assert_eq!((one(&first, "SELECT 1").await, one(&second, "SELECT 2").await), ("1".into(), "2".into()));
    assert_eq!(refusal(&connect(&proxy.config(&tenant, "crm")).await.expect_err("full")).0, "53300");
    drop((first, second));
    proxy.stop().await;
}
