"""core.mail: sends one mail by SMTP.

Exit 0 when the server took it for at least one recipient. The conversation is encrypted, and the server's
certificate checked, unless security is none; a password is never sent otherwise.
"""

import email.message
import email.policy
import email.utils
import json
import os
import smtplib
import ssl
import sys

import attune

PORTS = {"starttls": 587, "tls": 465, "none": 25}


class BadInput(Exception):
    """A parameter that cannot be used; its text is for the person who gave it."""


def configuration():
    """The pack's configuration, from the file that has its secrets where there is one."""
    name = os.environ.get("ATTUNE_PACK_CONFIG_FILE")
    if name:
        with open(name, encoding="utf-8") as file:
            return json.load(file)
    known = {}
    for key in ("mail_host", "mail_port", "mail_security", "mail_from", "mail_username", "mail_password"):
        value = os.environ.get("ATTUNE_PACK_CONFIG_" + key.upper())
        if value is not None:
            known[key] = value
    return known


def addresses(value, name):
    """A list of bare addresses, from a string or a list of strings."""
    texts = [value] if isinstance(value, str) else list(value or [])
    if any("\n" in t or "\r" in t for t in texts):
        raise BadInput(f"{name}: an address is in one line")
    found = [a for _, a in email.utils.getaddresses(texts) if a]
    for address in found:
        local, at, domain = address.rpartition("@")
        if not at or not local or not domain or " " in address:
            raise BadInput(f'{name}: "{address}" is no address')
    if texts and not found:
        raise BadInput(f"{name}: no address in it")
    return texts, found


def build(params, sender):
    """The message and the recipients of its envelope."""
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    recipients = []
    for header in ("to", "cc", "bcc"):
        shown, bare = addresses(params.get(header), header)
        recipients += bare
        if bare and header != "bcc":
            message[header.capitalize()] = ", ".join(shown)
    if not recipients:
        raise BadInput("to: no recipient")
    shown, _ = addresses(sender, "from")
    message["From"] = shown[0]
    if params.get("reply_to"):
        addresses(params["reply_to"], "reply_to")
        message["Reply-To"] = params["reply_to"]
    subject = params.get("subject") or ""
    if "\n" in subject or "\r" in subject:
        raise BadInput("subject: it is in one line")
    message["Subject"] = subject
    message["Date"] = email.utils.format_datetime(email.utils.localtime())
    message["Message-ID"] = email.utils.make_msgid(domain="attune")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(params.get("body") or "")
    if params.get("html"):
        message.add_alternative(params["html"], subtype="html")
    return message, list(dict.fromkeys(recipients))


def connect(host, port, security, context, timeout):
    if security == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=timeout, context=context)
    server = smtplib.SMTP(host, port, timeout=timeout)
    if security == "starttls":
        try:
            server.starttls(context=context)
        except smtplib.SMTPNotSupportedError:
            server.close()
            raise BadInput("the server offers no STARTTLS; security: tls, or none where that is meant")
        server.ehlo()
    return server


def send(params):
    config = configuration()

    def setting(name, otherwise=None):
        for value in (params.get(name), config.get("mail_" + name)):
            if value not in (None, ""):
                return value
        return otherwise

    security = setting("security", "starttls")
    if security not in PORTS:
        raise BadInput(f'security must be starttls, tls or none, not "{security}"')
    sender = setting("from")
    if not sender:
        raise BadInput("from: no sender; give it, or set mail_from in [packs.config.core]")
    message, recipients = build(params, sender)
    context = ssl.create_default_context(cafile=params.get("ca_file") or None)
    username, password = setting("username"), setting("password")
    if username and security == "none":
        raise BadInput("a password is not sent without encryption: security must be starttls or tls")
    host = setting("host", "localhost")
    server = connect(host, int(setting("port", PORTS[security])), security, context, params.get("timeout") or 30)
    try:
        if username:
            server.login(username, password or "")
        _, bare = addresses(sender, "from")
        refused = server.send_message(message, from_addr=bare[0], to_addrs=recipients)
    finally:
        try:
            server.quit()
        except (smtplib.SMTPException, OSError):
            server.close()
    return {
        "message_id": message["Message-ID"],
        "recipients": [r for r in recipients if r not in refused],
        "refused": {r: f"{code} {text.decode(errors='replace')}" for r, (code, text) in refused.items()},
    }


def main():
    try:
        sent = send(attune.parameters())
    except smtplib.SMTPRecipientsRefused as err:
        reasons = "; ".join(f"{r}: {code} {text.decode(errors='replace')}" for r, (code, text) in err.recipients.items())
        return "the server took no recipient: " + reasons
    except smtplib.SMTPAuthenticationError as err:
        return f"the server did not take username and password: {err.smtp_code}"
    except smtplib.SMTPResponseException as err:
        error = err.smtp_error.decode(errors="replace") if isinstance(err.smtp_error, bytes) else err.smtp_error
        return f"the server said {err.smtp_code} {error}"
    except (BadInput, smtplib.SMTPException, OSError, ValueError) as err:
        return str(err) or type(err).__name__
    print(json.dumps(sent))
    return None


problem = main()
if problem:
    print("ERROR: " + " ".join(problem.split()), file=sys.stderr)
    sys.exit(1)
