// A client for every contract, over gRPC-Web: in a browser, or in Node.js 20.

import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AdaptersService } from "./gen/sensormesh/adapters/v1/adapters_pb.js";
import { AuthService, type CreateTokenResponse } from "./gen/sensormesh/auth/v1/auth_pb.js";
import { DevicesService } from "./gen/sensormesh/devices/v1/devices_pb.js";
import { EdgeService } from "./gen/sensormesh/edge/v1/edge_pb.js";
import { RoomsService } from "./gen/sensormesh/rooms/v1/rooms_pb.js";
import { TelemetryService } from "./gen/sensormesh/telemetry/v1/telemetry_pb.js";

/** An access token, or what gives one before each call. */
export type Token = string | (() => string | Promise<string>);

/** A client for each contract. */
export interface Sensormesh {
  adapters: Client<typeof AdaptersService>;
  auth: Client<typeof AuthService>;
  devices: Client<typeof DevicesService>;
  edge: Client<typeof EdgeService>;
  rooms: Client<typeof RoomsService>;
  telemetry: Client<typeof TelemetryService>;
  /** For clients of other contracts: `createClient(SomeService, mesh.transport)`. */
  transport: Transport;
}

/** Clients for the system at `url`. Without a token only what is public answers. */
export function connect(url: string, token?: Token): Sensormesh {
  const authorize: Interceptor = (next) => async (request) => {
    if (token) request.header.set("authorization", `Bearer ${typeof token === "string" ? token : await token()}`);
    return next(request);
  };
  const transport = createGrpcWebTransport({ baseUrl: url.replace(/\/+$/, ""), interceptors: [authorize] });
  return {
    adapters: createClient(AdaptersService, transport),
    auth: createClient(AuthService, transport),
    devices: createClient(DevicesService, transport),
    edge: createClient(EdgeService, transport),
    rooms: createClient(RoomsService, transport),
    telemetry: createClient(TelemetryService, transport),
    transport,
  };
}

/** Logs in, and returns what gives an access token that works: it is replaced a minute before it expires. */
export async function logIn(url: string, username: string, password: string): Promise<() => Promise<string>> {
  const { auth } = connect(url);
  let tokens: CreateTokenResponse = await auth.createToken({ grantType: "password", username, password });
  let until = Date.now() + tokens.expiresIn * 1000;
  let pending: Promise<void> | undefined;
  const refresh = async () => {
    tokens = await auth.createToken({ grantType: "refresh_token", refreshToken: tokens.refreshToken });
    until = Date.now() + tokens.expiresIn * 1000;
  };
  return async () => {
    if (Date.now() > until - 60_000) {
      // A refresh token works once: calls at the same time share the new one.
      pending ??= refresh().finally(() => (pending = undefined));
      await pending;
    }
    return tokens.accessToken;
  };
}
