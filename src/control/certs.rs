//! What can be called about certificates.
//!
//! Owns this part of the list of methods; `dispatch` asks here for what it does not know itself.

use super::dispatch::{Stop, one};
use super::session::Replies;
use crate::wire::{
    Actor, Admin, CaCrl, CaInit, CaSign, Call, CertAccept, CertList, CertListing, CertNote, CertRequest, CertSelfsign,
    CertShow, CertStore, Done, Fault, Method,
};

/// Days a certificate may be asked for, at most.
const DAYS_MAX: u32 = 36_500;

/// Certificates in one part of a listing: each may have a chain with it.
const AT_ONCE: usize = 20;

/// Serves one call; `None` if it is not about certificates.
pub fn answer(admin: &dyn Admin, actor: &Actor, call: &Call<'_>, out: &mut Replies<'_>) -> Option<Result<(), Stop>> {
    let certs = || admin.certs().ok_or_else(|| Fault::Failed("there are no certificates here".into()));
    Some(match call.method.as_ref() {
        CertRequest::NAME => one::<CertRequest>(call, out, |asked| certs()?.cert_request(actor, asked)),
        CertAccept::NAME => one::<CertAccept>(call, out, |asked| certs()?.cert_accept(actor, asked)),
        CertStore::NAME => one::<CertStore>(call, out, |asked| certs()?.cert_store(actor, asked)),
        CertList::NAME => listing(call, out, |asked| certs()?.cert_list(actor, asked)),
        CertShow::NAME => one::<CertShow>(call, out, |asked| certs()?.cert_show(actor, asked)),
        CertSelfsign::NAME => one::<CertSelfsign>(call, out, |asked| {
            bounded(asked.days)?;
            certs()?.cert_selfsign(actor, asked)
        }),
        CertNote::NAME => one::<CertNote>(call, out, |asked| certs()?.cert_note(actor, asked).map(|()| Done {})),
        CaInit::NAME => one::<CaInit>(call, out, |asked| {
            bounded(asked.days)?;
            certs()?.ca_init(actor, asked)
        }),
        CaSign::NAME => one::<CaSign>(call, out, |asked| {
            bounded(asked.days)?;
            certs()?.ca_sign(actor, asked)
        }),
        CaCrl::NAME => one::<CaCrl>(call, out, |asked| {
            bounded(asked.days)?;
            certs()?.ca_crl(actor, asked)
        }),
        _ => return None,
    })
}

/// In parts if the caller takes parts.
fn listing(
    call: &Call<'_>,
    out: &mut Replies<'_>,
    serve: impl FnOnce(CertList) -> Result<CertListing, Fault>,
) -> Result<(), Stop> {
    let CertListing { mut certificates, unread } = serve(call.parameters()?)?;
    while call.more && certificates.len() > AT_ONCE {
        let rest = certificates.split_off(AT_ONCE);
        out.plain(&CertListing { certificates, unread: Vec::new() }, true)?;
        certificates = rest;
    }
    Ok(out.plain(&CertListing { certificates, unread }, false)?)
}

fn bounded(days: u32) -> Result<(), Fault> {
    if (1..=DAYS_MAX).contains(&days) { Ok(()) } else { Err(Fault::Usage(format!("days are 1 to {DAYS_MAX}"))) }
}
