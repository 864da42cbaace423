// An issuer of identities for tests (OpenID Connect): it asks whoever comes who they want to be, and believes them.

import { createHash, createSign, generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:https";

import { freePorts } from "./daemon.mjs";

/** Who can be chosen there. */
const PEOPLE = {
  alice: { sub: "s-1", preferred_username: "alice", groups: ["gpu-operators"] },
  mallory: { sub: "s-2", preferred_username: "mallory", groups: ["others"] },
};

/** Starts an issuer that shows this certificate. `answers` are the addresses to which it has sent browsers back. */
export async function startIssuer({ cert, key }) {
  const [port] = await freePorts(1);
  const issuer = new Issuer(`https://127.0.0.1:${port}`);
  const server = createServer({ cert, key }, (request, response) => issuer.answer(request, response));
  await new Promise((done, failed) => server.once("error", failed).listen(port, "127.0.0.1", done));
  issuer.end = () => {
    server.closeAllConnections();
    server.close();
  };
  return issuer;
}

class Issuer {
  answers = [];
  #keys = generateKeyPairSync("rsa", { modulusLength: 2048 });
  #grants = new Map();

  constructor(url) {
    this.url = url;
  }

  async answer(request, response) {
    const url = new URL(request.url, this.url);
    const json = (body, status = 200) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    switch (url.pathname) {
      case "/.well-known/openid-configuration": return json(this.#metadata());
      case "/jwks": return json({ keys: [{ ...this.#keys.publicKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: "k1" }] });
      case "/authorize": return response.writeHead(200, { "content-type": "text/html" }).end(choice(url.searchParams));
      case "/agree": return response.writeHead(302, { location: this.#agree(url.searchParams) }).end();
      case "/token": return this.#token(new URLSearchParams(await bodyOf(request)), json);
      // What a browser asks for by itself.
      default: return response.writeHead(204).end();
    }
  }

  #metadata() {
    return {
      issuer: this.url, authorization_endpoint: `${this.url}/authorize`, token_endpoint: `${this.url}/token`, jwks_uri: `${this.url}/jwks`,
      response_types_supported: ["code"], subject_types_supported: ["public"], id_token_signing_alg_values_supported: ["RS256"],
    };
  }

  #agree(asked) {
    const code = randomUUID();
    this.#grants.set(code, asked);
    const answer = new URL(asked.get("redirect_uri"));
    answer.search = new URLSearchParams({ code, state: asked.get("state") });
    this.answers.push(answer.href);
    return answer.href;
  }

  #token(asked, json) {
    const grant = this.#grants.get(asked.get("code"));
    this.#grants.delete(asked.get("code"));
    const challenge = createHash("sha256").update(asked.get("code_verifier") ?? "").digest("base64url");
    if (challenge !== grant?.get("code_challenge")) return json({ error: "invalid_grant" }, 400);
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.url, aud: grant.get("client_id"), iat: now, exp: now + 300, nonce: grant.get("nonce"), ...PEOPLE[grant.get("person")],
    };
    return json({ access_token: randomUUID(), token_type: "Bearer", id_token: this.#signed(claims) });
  }

  #signed(claims) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${part({ alg: "RS256", kid: "k1" })}.${part(claims)}`;
    return `${text}.${createSign("RSA-SHA256").update(text).sign(this.#keys.privateKey, "base64url")}`;
  }
}

/** A page on which people say who they want to be. */
function choice(asked) {
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
  const fields = [...asked].map(([name, value]) => `<input type="hidden" name="${escaped(name)}" value="${escaped(value)}">`);
  const people = Object.keys(PEOPLE).map((person) => `<button name="person" value="${person}">${person}</button>`);
  return `<!doctype html><html lang="en"><title>Issuer</title><h1>Who are you?</h1><form action="/agree">${fields.join("")}${people.join("")}</form>`;
}

async function bodyOf(request) {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}
