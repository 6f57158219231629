//! Nothing secret is in any log, at whatever level: passwords, verifiers, keys, tokens.

use base64ct::{Base64, Encoding as _};
use pgtenant::auth::{Secret, Verifier};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::wire::startup;
use crate::support::{Child, Wire, cluster, database, unique, world};

const TOKEN: &str = "token-of-the-operators";
const CONSOLE_PASSWORD: &str = "password-of-the-console";

/// What must be nowhere: texts as they are, and the keys of a verifier in the forms in which bytes are printed.
#[derive(Default)]
struct Secrets(Vec<(String, String)>);

impl Secrets {
    fn text(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 8, "{what} is too short to be looked for");
        self.0.push((what.to_owned(), secret.to_owned()));
    }

    fn bytes(&mut self, what: &str, secret: &[u8]) {
        self.text(what, &Base64::encode_string(secret));
        self.text(what, &secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        self.text(what, &secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
    }

    fn verifier(&mut self, what: &str, verifier: &str) {
        let (_, keys) = verifier.rsplit_once('$').expect("keys");
        for key in keys.split(':') {
            self.bytes(what, &Base64::decode_vec(key).expect("base64"));
        }
    }

    fn are_not_in(&self, log: &str) {
        for (what, secret) in &self.0 {
            assert!(!log.contains(secret.as_str()), "{what} is in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_logs_everything_logs_no_secret() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("hushed"), &["crm", "shop"]).await;
    let console = Verifier::generate(CONSOLE_PASSWORD, 4096).to_string();
    let sections = format!(
        "[log]\nlevel = \"trace,tokio_postgres=trace\"\n[http]\naddress = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n\
         [[console.users]]\nname = \"ops\"\nrole = \"admin\"\nverifier = \"{console}\""
    );
    let mut child = Child::serve(world, &sections).await;
    let mut secrets = Secrets::default();
    for module in ["crm", "shop"] {
        let mut client = Wire::login(child.address, &tenant, module).await;
        client.ask("SELECT 'the text of a statement'").await;
        secrets.bytes("a cancel key", &client.secret);
    }
    let hello = startup(&[("user", &tenant.user()), ("database", "crm")]);
    let refused = Wire::login_with(child.address, &hello, "a wrong password").await;
    assert_eq!(refused.err().map(|error| error.field(b'C')), Some("28P01".to_owned()));
    let hello = startup(&[("user", "ops"), ("database", "pgtenant")]);
    let mut operator = Wire::login_with(child.address, &hello, CONSOLE_PASSWORD).await.expect("the console");
    operator.query("SHOW CONFIG").await;
    operator.query("RELOAD").await;
    let mut http = TcpStream::connect(child.http.expect("HTTP")).await.unwrap();
    let request = format!(
        "GET /health/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    http.write_all(request.as_bytes()).await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut http, &mut Vec::new()).await.unwrap();
    child.logged("reloaded").await;
    let log = child.whole_log().await;
    assert!(log.contains("TRACE") && log.contains("login failed"), "everything is logged");

    let registry = tokio_postgres::connect(&world.registry, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(registry.1);
    let verifier = "SELECT l.verifier FROM pgtenant.logins AS l JOIN pgtenant.tenants AS t ON t.id = l.tenant_id WHERE t.slug = $1";
    secrets.verifier("the login's verifier", registry.0.query_one(verifier, &[&tenant.slug]).await.unwrap().get(0));
    secrets.verifier("the console's verifier", &console);
    secrets.text("the tenant's password", &tenant.password);
    secrets.text("a wrong password", "a wrong password");
    secrets.text("the console's password", CONSOLE_PASSWORD);
    secrets.text("the token", TOKEN);
    secrets.text("the administrator's password", cluster().await.password());
    secrets.text("the service's password", "of the service");
    secrets.text("the text of a statement", "the text of a statement");
    secrets.are_not_in(&log);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_say_everything_say_no_secret() {
    let registry = database("registry").await;
    let world = crate::support::World::over(registry.url.clone()).await;
    let slug = unique("told");
    let mut secrets = Secrets::default();
    let mut said = String::new();
    for arguments in [
        &["tenant", "create", &slug, "--name", "Told", "--modules", "crm,operations", "--json", "-vv"][..],
        &["tenant", "login", "password", &slug, "app", "--json", "-vv"],
        &["tenant", "login", "add", &slug, "reports", "--json", "-vv"],
        &["tenant", "reconcile", &slug, "--json", "-vv"],
    ] {
        let output = world.command(arguments).output().await.expect("run pgtenant");
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        if let Some(password) = printed["password"].as_str() {
            secrets.text("a password", password);
        }
        let verifiers = registry.admin.query("SELECT verifier FROM pgtenant.logins", &[]).await.unwrap();
        verifiers.iter().for_each(|row| secrets.verifier("a verifier", row.get(0)));
    }
    assert_eq!(secrets.0.iter().filter(|(what, _)| what == "a password").count(), 3);
    secrets.text("the administrator's password", cluster().await.password());
    secrets.are_not_in(&said);
}

#[test]
fn a_secret_prints_as_nothing() {
    assert!(!format!("{:?}", Secret::new("hushhush".to_owned())).contains("hush"));
}
