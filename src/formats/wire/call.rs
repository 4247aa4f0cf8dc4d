//! Calls and replies as JSON, and what every Varlink service answers (`org.varlink.service`).
//!
//! Owns the envelope: `{"method", "parameters", "more", "oneway"}` one way, `{"parameters", "continues"}` or
//! `{"error", "parameters"}` the other. Its errors repeat nothing of what was sent but names of fields.

use super::{CallError, Fault, Method};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::Write;

/// The longest name that is repeated in an error, in characters.
const NAME_SHOWN: usize = 128;

/// A call whose envelope was read; the parameters are read when the method is known.
#[derive(Debug)]
pub struct Call<'f> {
    /// The full name of the method.
    pub method: Cow<'f, str>,
    /// Whether the caller takes several replies.
    pub more: bool,
    /// Whether the caller wants no reply.
    pub oneway: bool,
    frame: &'f [u8],
}

#[derive(Deserialize)]
struct CallHead<'f> {
    #[serde(borrow)]
    method: Cow<'f, str>,
    #[serde(default)]
    more: Option<bool>,
    #[serde(default)]
    oneway: Option<bool>,
    #[serde(default)]
    upgrade: Option<bool>,
}

#[derive(Deserialize)]
struct Body<T> {
    parameters: Option<T>,
}

impl<'f> Call<'f> {
    /// Reads the envelope.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`] if that is no call.
    pub fn parse(frame: &'f [u8]) -> Result<Self, CallError> {
        let head: CallHead<'f> = serde_json::from_slice(frame).map_err(|e| invalid(&e))?;
        if head.upgrade == Some(true) {
            return Err(CallError::InvalidParameter("no method here upgrades the connection".into()));
        }
        Ok(Call { method: head.method, more: head.more == Some(true), oneway: head.oneway == Some(true), frame })
    }

    /// Reads the parameters; none at all are an empty object.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`] says which, never its value.
    pub fn parameters<T: Deserialize<'f>>(&self) -> Result<T, CallError> {
        match serde_json::from_slice::<Body<T>>(self.frame).map_err(|e| invalid(&e))?.parameters {
            Some(parameters) => Ok(parameters),
            None => serde_json::from_str("{}").map_err(|e| invalid(&e)),
        }
    }

    /// The error for a method nobody offers.
    pub fn unknown(&self) -> CallError {
        let short = |s: &str| s.chars().take(NAME_SHOWN).collect::<String>();
        match self.method.rsplit_once('.') {
            Some((interface @ ("org.pinfold" | "org.varlink.service"), name)) => {
                CallError::MethodNotFound(format!("{interface}.{}", short(name)))
            }
            Some((interface, _)) => CallError::InterfaceNotFound(short(interface)),
            None => CallError::InterfaceNotFound(short(&self.method)),
        }
    }
}

/// What is wrong with JSON, without repeating a value: serde's own words quote it.
fn invalid(error: &serde_json::Error) -> CallError {
    let text = error.to_string();
    let quotes =
        text.starts_with("invalid type") || text.starts_with("invalid value") || text.starts_with("unknown variant");
    let text = match text.rsplit_once(", expected ") {
        Some((_, expected)) if quotes => format!("a value is wrong, expected {expected}"),
        None if quotes => "a value is wrong".into(),
        _ => text,
    };
    CallError::InvalidParameter(text)
}

/// Writes a call and its NUL.
///
/// # Errors
/// What the writer says.
pub fn write_call<M: Method>(to: &mut impl Write, parameters: &M, more: bool) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Out<'a, M> {
        method: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        parameters: &'a M,
    }
    write(to, &Out { method: M::NAME, more, parameters })
}

/// Writes a reply and its NUL.
///
/// # Errors
/// What the writer says.
pub fn write_reply<T: Serialize>(to: &mut impl Write, parameters: &T, continues: bool) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Out<'a, T> {
        parameters: &'a T,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        continues: bool,
    }
    write(to, &Out { parameters, continues })
}

/// Writes an error reply and its NUL.
///
/// # Errors
/// What the writer says.
pub fn write_error(to: &mut impl Write, error: &CallError) -> std::io::Result<()> {
    let (name, parameters) = match error {
        CallError::Fault(fault) => (fault.error_name(), serde_json::json!({ "reason": fault.reason() })),
        CallError::InterfaceNotFound(interface) => {
            ("org.varlink.service.InterfaceNotFound", serde_json::json!({ "interface": interface }))
        }
        CallError::MethodNotFound(method) => {
            ("org.varlink.service.MethodNotFound", serde_json::json!({ "method": method }))
        }
        CallError::InvalidParameter(parameter) => {
            ("org.varlink.service.InvalidParameter", serde_json::json!({ "parameter": parameter }))
        }
        CallError::ExpectedMore => ("org.varlink.service.ExpectedMore", serde_json::json!({})),
        CallError::Unknown(name) => (name.as_str(), serde_json::json!({})),
    };
    write(to, &serde_json::json!({ "error": name, "parameters": parameters }))
}

fn write(to: &mut impl Write, message: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *to, message)?;
    to.write_all(b"\0")
}

/// A successful reply.
#[derive(Debug)]
pub struct Reply<T> {
    /// What was answered.
    pub parameters: T,
    /// Whether more of it comes.
    pub continues: bool,
}

/// Reads a reply.
///
/// # Errors
/// The error that was answered, or [`CallError::InvalidParameter`] for what is no reply at all.
pub fn read_reply<'f, T: Deserialize<'f>>(frame: &'f [u8]) -> Result<Reply<T>, CallError> {
    #[derive(Deserialize)]
    struct Head {
        error: Option<String>,
        continues: Option<bool>,
    }
    #[derive(Deserialize, Default)]
    struct What {
        reason: Option<String>,
        interface: Option<String>,
        method: Option<String>,
        parameter: Option<String>,
    }
    let head: Head = serde_json::from_slice(frame).map_err(|e| invalid(&e))?;
    let Some(error) = head.error else {
        let call = Call { method: Cow::Borrowed(""), more: false, oneway: false, frame };
        return Ok(Reply { parameters: call.parameters()?, continues: head.continues == Some(true) });
    };
    let what = serde_json::from_slice::<Body<What>>(frame).ok().and_then(|b| b.parameters).unwrap_or_default();
    Err(match error.strip_prefix("org.varlink.service.") {
        Some("InterfaceNotFound") => CallError::InterfaceNotFound(what.interface.unwrap_or_default()),
        Some("MethodNotFound" | "MethodNotImplemented") => CallError::MethodNotFound(what.method.unwrap_or_default()),
        Some("InvalidParameter") => CallError::InvalidParameter(what.parameter.unwrap_or_default()),
        Some("ExpectedMore") => CallError::ExpectedMore,
        _ => Fault::from_error(&error, what.reason.unwrap_or_default())
            .map_or_else(|| CallError::Unknown(error.chars().take(NAME_SHOWN).collect()), CallError::Fault),
    })
}

/// The interface `org.varlink.service`.
pub mod service {
    use serde::{Deserialize, Serialize};

    /// Its description.
    pub const INTERFACE: &str = include_str!("org.varlink.service.varlink");

    /// What `GetInfo` answers.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Info {
        /// Who makes it.
        pub vendor: String,
        /// What it is.
        pub product: String,
        /// Its version.
        pub version: String,
        /// Where to read about it.
        pub url: String,
        /// The interfaces that can be called.
        pub interfaces: Vec<String>,
    }

    impl Info {
        /// This program's.
        pub fn ours() -> Self {
            Info {
                vendor: "pinfold".into(),
                product: "pinfold".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                url: env!("CARGO_PKG_REPOSITORY").into(),
                interfaces: vec!["org.varlink.service".into(), "org.pinfold".into()],
            }
        }
    }

    /// The parameters of `GetInterfaceDescription`.
    #[derive(Debug, Clone, Deserialize, Serialize)]
    pub struct GetInterfaceDescription {
        /// Which.
        pub interface: String,
    }

    impl GetInterfaceDescription {
        /// The description, if it is one of ours.
        pub fn answer(&self) -> Option<Description> {
            let text = match self.interface.as_str() {
                "org.pinfold" => crate::wire::INTERFACE,
                "org.varlink.service" => INTERFACE,
                _ => return None,
            };
            Some(Description { description: text.into() })
        }
    }

    /// What `GetInterfaceDescription` answers.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Description {
        /// In the Varlink interface language.
        pub description: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SecretPath;
    use crate::secret::Secret;
    use crate::wire::{Committed, List, Put, Revealed, Unlock};

    fn call_of<M: Method>(m: &M, more: bool) -> Vec<u8> {
        let mut out = Vec::new();
        write_call(&mut out, m, more).unwrap();
        assert_eq!(out.pop(), Some(0));
        out
    }

    #[test]
    fn a_put_comes_back_as_it_was() {
        let put = Put {
            path: SecretPath::parse("svc/pin \"x\"\n").unwrap(),
            uid: Some(33),
            gid: None,
            mode: Some(0o640),
            parents: false,
            content: Secret::copy_of(&[0, 255, 10]).unwrap(),
        };
        let frame = call_of(&put, false);
        let call = Call::parse(&frame).unwrap();
        assert_eq!((call.method.as_ref(), call.more, call.oneway), ("org.pinfold.Put", false, false));
        let back: Put = call.parameters().unwrap();
        assert_eq!(back.path, put.path);
        assert_eq!((back.uid, back.gid, back.mode), (Some(33), None, Some(0o640)));
        assert_eq!(back.content.expose(), [0, 255, 10]);
    }

    #[test]
    fn absent_and_null_parameters_are_the_defaults() {
        let plain = List { path: SecretPath::root(), recursive: false, itself: false };
        for text in [
            r#"{"method":"org.pinfold.List"}"#,
            r#"{"method":"org.pinfold.List","parameters":null}"#,
            r#"{"method":"org.pinfold.List","parameters":{}}"#,
            r#"{"method":"org.pinfold.List","parameters":{"path":null,"recursive":null,"itself":null}}"#,
        ] {
            assert_eq!(Call::parse(text.as_bytes()).unwrap().parameters::<List>().unwrap(), plain, "{text}");
        }
        assert!(Call::parse(br#"{"method":"m"}"#).unwrap().parameters::<Put>().is_err());
    }

    #[test]
    fn hostile_calls_are_errors_that_repeat_no_value() {
        let deep = format!("{{\"method\":\"m\",\"parameters\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for text in [
            "",
            "null",
            "[]",
            "{",
            "\u{0}",
            "{\"method\":1}",
            "{\"parameters\":{}}",
            "{\"method\":\"m\"}x",
            "{\"method\":\"m\",\"method\":\"n\"}",
            "{\"method\":\"m\",\"upgrade\":true}",
        ] {
            assert!(matches!(Call::parse(text.as_bytes()), Err(CallError::InvalidParameter(_))), "{text}");
        }
        // Nesting is skipped without recursion in the envelope, and refused where a value is wanted.
        if let Ok(call) = Call::parse(deep.as_bytes()) {
            assert!(call.parameters::<List>().is_err());
        }
        for parameters in [
            r#"{"path":"a","content":"hunter2","mode":"hunter2"}"#,
            r#"{"path":"../hunter2","content":""}"#,
            r#"{"path":"a","content":["hunter2"]}"#,
            r#"{"path":"a","content":"hunter2*"}"#,
            r#"{"path":"a","content":"","mode":70000}"#,
            r#"{"path":"a","content":"","owner":"root"}"#,
        ] {
            let text = format!(r#"{{"method":"org.pinfold.Put","parameters":{parameters}}}"#);
            let error = Call::parse(text.as_bytes()).unwrap().parameters::<Put>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let bytes = b"{\"method\":\"m\xff\"}";
        assert!(Call::parse(bytes).is_err());
    }

    #[test]
    fn who_offers_nothing_says_what_it_lacks() {
        let unknown = |m: &str| Call::parse(format!(r#"{{"method":"{m}"}}"#).as_bytes()).unwrap().unknown();
        assert_eq!(unknown("org.pinfold.Nix"), CallError::MethodNotFound("org.pinfold.Nix".into()));
        assert_eq!(unknown("com.example.Nix"), CallError::InterfaceNotFound("com.example".into()));
        assert_eq!(unknown("x"), CallError::InterfaceNotFound("x".into()));
    }

    #[test]
    fn replies_and_errors_come_back_as_they_were() {
        let mut out = Vec::new();
        write_reply(&mut out, &Committed { version: 7 }, true).unwrap();
        assert_eq!(out, b"{\"parameters\":{\"version\":7},\"continues\":true}\0");
        let reply = read_reply::<Committed>(&out[..out.len() - 1]).unwrap();
        assert!(reply.continues && reply.parameters.version == 7);
        for error in [
            CallError::Fault(Fault::Locked("the store is locked".into())),
            CallError::InterfaceNotFound("a.b".into()),
            CallError::MethodNotFound("a.b.C".into()),
            CallError::InvalidParameter("mode".into()),
            CallError::ExpectedMore,
            CallError::Unknown("com.example.Oops".into()),
        ] {
            let mut out = Vec::new();
            write_error(&mut out, &error).unwrap();
            assert_eq!(read_reply::<Committed>(&out[..out.len() - 1]).unwrap_err(), error);
        }
    }

    #[test]
    fn plaintext_is_on_the_wire_only_as_base64() {
        let mut out = Vec::new();
        write_reply(&mut out, &Revealed { content: Secret::copy_of(b"hunter2").unwrap() }, false).unwrap();
        assert_eq!(out, b"{\"parameters\":{\"content\":\"aHVudGVyMg==\"}}\0");
        let unlock = Unlock { passphrase: Some(Secret::copy_of(b"hunter2").unwrap()), ..Unlock::default() };
        let frame = call_of(&unlock, false);
        let text = String::from_utf8(frame.clone()).unwrap();
        assert!(text.ends_with(r#""parameters":{"passphrase":"aHVudGVyMg=="}}"#), "{text}");
        let back: Unlock = Call::parse(&frame).unwrap().parameters().unwrap();
        assert_eq!(back.passphrase.unwrap().expose(), b"hunter2");
        assert!(back.identity.is_none());
    }
}
