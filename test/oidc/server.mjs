// SPDX-License-Identifier: Apache-2.0

// A certified OpenID provider for tests. It takes its configuration as JSON in argv[2]:
//   port      where on 127.0.0.1 to listen; 0 picks a free one
//   issuer    the issuer to claim to be; empty: the address it listens at
//   clients   client metadata (OpenID Connect Dynamic Client Registration 1.0, section 2)
//   users     { name: { claims } }; the login form takes a name and any password
//   ttl       lifetimes in seconds, by model name
// When it is ready it writes one line of JSON to stdout: {"issuer": ...}. A line of JSON on its standard input is what
// an administrator does, and is answered by a line that has all tokens given out so far, in "tokens":
//   {"claims": {name: {claims}}}  the users have these claims from now on
//   {"revoke": name}              what the user has granted is revoked
// It ends when its standard input does, so that it cannot outlive the test that started it.

import http from 'node:http';
import readline from 'node:readline';
import Provider from 'oidc-provider';

const config = JSON.parse(process.argv[2]);
const server = http.createServer();
const grants = {}; // by user: the ids of what was granted
const tokens = [];
let administer;

server.listen(config.port, '127.0.0.1', () => {
  const issuer = config.issuer || `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: config.clients,
    claims: {
      openid: ['sub', 'groups'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
    },
    conformIdTokenClaims: false, // claims go into the ID token, as with most providers
    features: {
      devInteractions: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true },
      backchannelLogout: { enabled: true },
      deviceFlow: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: { // access tokens for whatever is asked for are signed, and say so
        enabled: true,
        getResourceServerInfo: async () => ({ scope: '', accessTokenFormat: 'jwt' }),
      },
    },
    // A refresh token for everyone who may have one, whether or not offline_access was asked for.
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    async findAccount(ctx, id) {
      if (!(id in (config.users ?? {}))) return undefined;
      return { accountId: id, claims: async () => ({ sub: id, ...config.users[id] }) };
    },
    // Its guard against request forgery by clients would keep logout messages from loopback.
    fetch(url, options) {
      delete options.dispatcher;
      return globalThis.fetch(url, options);
    },
    cookies: { keys: ['a key for tests'] },
    ttl: config.ttl ?? {},
  });
  provider.on('server_error', (ctx, err) => console.error(err));
  provider.on('grant.success', (ctx) => {
    const code = ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.DeviceCode;
    if (code) (grants[code.accountId] ??= []).push(code.grantId);
    for (const kind of ['access_token', 'refresh_token', 'id_token']) {
      if (ctx.body?.[kind]) tokens.push(ctx.body[kind]);
    }
  });
  administer = async (order) => {
    if (order.claims) Object.assign(config.users, order.claims);
    for (const id of grants[order.revoke] ?? []) {
      await provider.RefreshToken.revokeByGrantId(id);
      await provider.AccessToken.revokeByGrantId(id);
    }
  };
  server.on('request', provider.callback());
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
});

const orders = readline.createInterface({ input: process.stdin });
orders.on('line', async (line) => {
  await administer(JSON.parse(line));
  process.stdout.write(`${JSON.stringify({ tokens })}\n`);
});
orders.on('close', () => process.exit(0));
