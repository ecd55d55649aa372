// Checks of a topic server with the stock centrifuge-js, in Node and in a browser.
(function (root) {
  const sleep = ms => new Promise(r => setTimeout(r, ms));
  const eq = (a, b, what) => {
    const x = JSON.stringify(a), y = JSON.stringify(b);
    if (x !== y) throw new Error(`${what || 'value'}: got ${x}, wanted ${y}`);
  };
  const until = async (f, what, ms = 5000) => {
    const end = Date.now() + ms;
    while (Date.now() < end) { const v = f(); if (v) return v; await sleep(5); }
    throw new Error(`timed out waiting for ${what}`);
  };
  const rejected = async (p) => { try { await p; } catch (e) { return e; } throw new Error('was not rejected'); };
  const unique = (p) => `${p}:${Math.random().toString(36).slice(2, 10)}`;

  function make(env) {
    const open = [];
    const client = (options = {}) => {
      const c = new env.Centrifuge(env.url, { minReconnectDelay: 20, maxReconnectDelay: 200, ...env.options, ...options });
      c.log = [];
      for (const name of ['connecting', 'connected', 'disconnected', 'error', 'message', 'subscribed', 'unsubscribed', 'publication'])
        c.on(name, ctx => c.log.push([name, ctx]));
      open.push(c);
      return c;
    };
    const connected = async (options) => { const c = client(options); c.connect(); await c.ready(5000); return c; };
    const subscription = async (c, channel, options = {}) => {
      const s = c.newSubscription(channel, { minResubscribeDelay: 20, maxResubscribeDelay: 200, ...options });
      s.log = []; s.pubs = [];
      for (const name of ['subscribing', 'subscribed', 'unsubscribed', 'error', 'join', 'leave']) s.on(name, ctx => s.log.push([name, ctx]));
      s.on('publication', ctx => { s.pubs.push(ctx); s.log.push(['publication', ctx]); });
      s.subscribe();
      return s;
    };
    const J = env.pack || (x => x), U = env.unpack || (x => x);
    const ctl = async (c, name, data) => U((await c.rpc('ctl.' + name, J(data))).data);
    const publish = (c, channel, values, tags) => ctl(c, 'publish', { channel, values, tags });
    return { client, connected, subscription, ctl, publish, J, U, open };
  }

  const checks = {
    async connect_gives_a_client_id(k) {
      const c = await k.connected({ data: k.J({ user: 'ada' }) });
      const ctx = c.log.find(e => e[0] === 'connected')[1];
      if (!ctx.client) throw new Error('no client id');
      eq(k.U(ctx.data), { hello: 'there' }, 'data');
    },
    async publish_reaches_all_in_order(k) {
      const channel = unique('chat');
      const cs = [], ss = [];
      for (let i = 0; i < 10; i++) { const c = await k.connected(); cs.push(c); const s = await k.subscription(c, channel); ss.push(s); await s.ready(5000); }
      for (let i = 0; i < 20; i++) await ss[0].publish(k.J({ i }));
      for (const s of ss) {
        await until(() => s.pubs.length === 20, 'publications');
        eq(s.pubs.map(p => k.U(p.data).i), [...Array(20).keys()]);
        eq(s.pubs.map(p => p.offset), [...Array(20).keys()].map(n => n + 1));
      }
    },
    async publication_has_publisher_and_tags(k) {
      const channel = unique('chat');
      const c = await k.connected({ data: k.J({ user: 'ada' }) });
      const s = await k.subscription(c, channel); await s.ready(5000);
      await s.publish(k.J('hi'));
      await k.publish(c, channel, ['from server'], { a: 'b' });
      await until(() => s.pubs.length === 2, 'publications');
      eq(s.pubs[0].info.user, 'ada'); eq(k.U(s.pubs[0].info.connInfo), { name: 'ada' });
      eq(s.pubs[1].tags, { a: 'b' }); eq(s.pubs[1].info, undefined);
    },
    async history_forward_backward_since(k) {
      const channel = unique('chat');
      const c = await k.connected(); const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(c, channel, [1, 2, 3, 4, 5]);
      let h = await s.history(); eq([h.publications.length, h.offset], [0, 5]);
      const epoch = h.epoch; if (!epoch) throw new Error('no epoch');
      h = await s.history({ limit: 2 }); eq(h.publications.map(p => k.U(p.data)), [1, 2]);
      h = await s.history({ limit: 2, reverse: true }); eq(h.publications.map(p => k.U(p.data)), [5, 4]);
      h = await s.history({ limit: -1, since: { offset: 3, epoch } }); eq(h.publications.map(p => k.U(p.data)), [4, 5]);
      h = await s.history({ limit: 10, since: { offset: 3, epoch }, reverse: true }); eq(h.publications.map(p => k.U(p.data)), [2, 1]);
      h = await s.history({ limit: -1 }); eq(h.publications.length, 5);
      eq((await rejected(s.history({ limit: 1, since: { offset: 1, epoch: 'other' } }))).code, 112);
      eq((await rejected(s.history({ limit: 1, since: { offset: 0, epoch }, reverse: true }))).code, 107);
    },
    async recovery_after_a_dropped_connection(k) {
      const channel = unique('chat');
      const other = await k.connected(); const c = await k.connected();
      const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(other, channel, [1, 2]);
      await until(() => s.pubs.length === 2, 'first publications');
      c.rpc('ctl.abort', k.J(null)).catch(() => {});
      await until(() => s.state === 'subscribing', 'subscribing');
      await k.publish(other, channel, [3, 4, 5]);
      await until(() => s.pubs.length === 5, 'recovered publications');
      const again = s.log.filter(e => e[0] === 'subscribed')[1][1];
      eq([again.wasRecovering, again.recovered, again.recoverable, again.positioned], [true, true, true, true]);
      await k.publish(other, channel, [6]);
      await until(() => s.pubs.length === 6, 'next publication');
      eq(s.pubs.map(p => k.U(p.data)), [1, 2, 3, 4, 5, 6]); eq(s.pubs.map(p => p.offset), [1, 2, 3, 4, 5, 6]);
    },
    async recovery_of_nothing_is_recovered(k) {  // a quiet channel of one's own
      const channel = unique('chat');
      const c = await k.connected(); const s = await k.subscription(c, channel); await s.ready(5000);
      c.rpc('ctl.abort', k.J(null)).catch(() => {});
      await until(() => s.log.filter(e => e[0] === 'subscribed').length === 2, 'second subscribed');
      const again = s.log.filter(e => e[0] === 'subscribed')[1][1];
      eq([again.wasRecovering, again.recovered], [true, true]);
    },
    async too_much_missed_is_not_recovered(k) {
      const channel = unique('small');
      const other = await k.connected(); const c = await k.connected();
      const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(other, channel, [1]);
      await until(() => s.pubs.length === 1, 'first');
      c.disconnect();
      await k.publish(other, channel, [2, 3, 4, 5, 6, 7, 8, 9]);
      c.connect();
      await until(() => s.log.filter(e => e[0] === 'subscribed').length === 2, 'second subscribed');
      const again = s.log.filter(e => e[0] === 'subscribed')[1][1];
      eq([again.wasRecovering, again.recovered, again.streamPosition.offset], [true, false, 9]);
      await k.publish(other, channel, [10]);
      await until(() => s.pubs.length === 2, 'next');
      await sleep(50);
      eq(s.pubs.map(p => k.U(p.data)), [1, 10]);
    },
    async another_epoch_is_not_recovered(k) {
      const channel = unique('small');
      const other = await k.connected(); const c = await k.connected();
      const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(other, channel, [1, 2]);
      await until(() => s.pubs.length === 2, 'first');
      await k.ctl(other, 'forget', channel);
      await until(() => s.log.filter(e => e[0] === 'subscribed').length === 2, 'second subscribed');
      const [a, b] = s.log.filter(e => e[0] === 'subscribed').map(e => e[1]);
      eq([b.wasRecovering, b.recovered], [true, false]);
      if (a.streamPosition.epoch === b.streamPosition.epoch) throw new Error('same epoch');
    },
    async big_recovery_is_complete_and_ordered(k) {
      const channel = unique('big');
      const other = await k.connected(); const c = await k.connected();
      const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(other, channel, [{ i: 0 }]);
      await until(() => s.pubs.length === 1, 'first');
      c.disconnect();
      for (let round = 0; round < 10; round++)
        await k.publish(other, channel, [...Array(300).keys()].map(n => ({ i: 1 + round * 300 + n, pad: 'x'.repeat(200) })));
      c.connect();
      await until(() => s.pubs.length === 3001, 'recovered', 10000);
      eq(s.pubs.every((p, n) => k.U(p.data).i === n && p.offset === n + 1), true, 'order');
      eq(s.log.filter(e => e[0] === 'subscribed')[1][1].recovered, true);
    },
    async latest_mode_gives_only_the_newest(k) {
      const channel = unique('now');
      const other = await k.connected(); await k.publish(other, channel, [1, 2, 3]);
      const c = await k.connected(); const s = await k.subscription(c, channel, { since: {} }); await s.ready(5000);
      await until(() => s.pubs.length === 1, 'cached');
      eq(k.U(s.pubs[0].data), 3);
      eq(s.log.find(e => e[0] === 'subscribed')[1].hasRecoveredPublications, true);
    },
    async presence_and_stats(k) {
      const channel = unique('chat');
      const a = await k.connected({ data: k.J({ user: 'ada' }) }), b = await k.connected({ data: k.J({ user: 'ada' }) }), d = await k.connected({ data: k.J({ user: 'bob' }) });
      const ss = []; for (const c of [a, b, d]) { const s = await k.subscription(c, channel); await s.ready(5000); ss.push(s); }
      let p = await ss[0].presence();
      eq(Object.values(p.clients).map(i => i.user).sort(), ['ada', 'ada', 'bob']);
      eq(k.U(Object.values(p.clients)[0].connInfo || Object.values(p.clients)[0].conn_info).name.length > 0, true);
      eq(await ss[0].presenceStats(), { numUsers: 2, numClients: 3 });
      ss[2].unsubscribe(); b.disconnect();
      await until(() => ss[0].log.length >= 0, 'x');
      for (let i = 0; i < 100; i++) { const st = await ss[0].presenceStats(); if (st.numClients === 1) { eq(st, { numUsers: 1, numClients: 1 }); return; } await sleep(10); }
      throw new Error('presence does not shrink');
    },
    async join_and_leave(k) {
      const channel = unique('chat');
      const a = await k.connected({ data: k.J({ user: 'ada' }) }); const s = await k.subscription(a, channel, { joinLeave: true }); await s.ready(5000);
      const q = await k.connected({ data: k.J({ user: 'quiet' }) }); const qs = await k.subscription(q, channel); await qs.ready(5000);
      const b = await k.connected({ data: k.J({ user: 'bob' }) }); const t = await k.subscription(b, channel); await t.ready(5000);
      await until(() => s.log.some(e => e[0] === 'join' && e[1].info.user === 'bob'), 'join of bob');
      t.unsubscribe();
      await until(() => s.log.some(e => e[0] === 'leave' && e[1].info.user === 'bob'), 'leave of bob');
      q.disconnect();
      await until(() => s.log.some(e => e[0] === 'leave' && e[1].info.user === 'quiet'), 'leave of who disconnects');
      eq(qs.log.filter(e => e[0] === 'join').length, 0, 'joins that nobody asked for');
    },
    async rpc_result_and_errors(k) {
      const c = await k.connected();
      eq(k.U((await c.rpc('echo', k.J({ a: [1, 'ü', null, 1.5] }))).data), { a: [1, 'ü', null, 1.5] });
      const e = await rejected(c.rpc('fail', k.J(1))); eq([e.code, e.message, e.temporary], [1400, 'as you wish', true]);
      eq((await rejected(c.rpc('boom', k.J(1)))).code, 100);
      eq((await rejected(c.rpc('nothing', k.J(1)))).code, 104);
      const slow = c.rpc('sleep', k.J(0.3)); const t = Date.now();
      await c.rpc('echo', k.J(1)); if (Date.now() - t > 200) throw new Error('a slow call delays others');
      eq(k.U((await slow).data), 'slept');
    },
    async send_arrives(k) {
      const c = await k.connected(); const mark = unique('m');
      await c.send(k.J({ mark }));
      const got = await k.ctl(c, 'messages', null);
      eq(got.map(x => JSON.parse(x)).some(x => x.mark === mark), true);
    },
    async server_message(k) {
      const c = await k.connected(); await k.ctl(c, 'message', { hi: 1 });
      await until(() => c.log.some(e => e[0] === 'message'), 'message');
      eq(k.U(c.log.find(e => e[0] === 'message')[1].data), { hi: 1 });
    },
    async connection_token_is_refreshed(k) {
      let n = 0; const c = k.client({ token: 'ttl:1', getToken: async () => { n++; return 'ttl:1'; } });
      c.connect(); await c.ready(5000);
      await until(() => n >= 2, 'two refreshes', 6000);
      eq([c.state, c.log.filter(e => e[0] === 'connecting').length], ['connected', 1]);
    },
    async expired_token_asks_for_another(k) {
      let n = 0; const c = k.client({ token: 'expired', getToken: async () => { n++; return 'ttl:60'; } });
      c.connect(); await c.ready(5000); eq(n, 1);
    },
    async invalid_token_ends_it(k) {
      const c = k.client({ token: 'invalid' }); c.connect();
      await until(() => c.state === 'disconnected', 'disconnected');
      const ctx = c.log.find(e => e[0] === 'disconnected')[1]; eq([ctx.code, ctx.reason], [3500, 'invalid token']);
    },
    async connect_error_permanent_and_temporary(k) {
      const c = k.client({ token: 'no' }); c.connect();
      await until(() => c.state === 'disconnected', 'disconnected'); eq(c.log.find(e => e[0] === 'disconnected')[1].code, 1000);
      const d = k.client({ token: 'busy' }); d.connect();
      await until(() => d.log.filter(e => e[0] === 'error').length >= 2, 'two attempts'); eq(d.state, 'connecting');
    },
    async subscription_token(k) {
      const c = await k.connected(); let n = 0;
      const s = await k.subscription(c, unique('token'), { token: 'ttl:1', getToken: async () => { n++; return 'ttl:1'; } });
      await s.ready(5000);
      const ctx = s.log.find(e => e[0] === 'subscribed')[1]; eq(k.U(ctx.data), { welcome: true });
      await until(() => n >= 2, 'two refreshes', 6000); eq(s.state, 'subscribed');
      const t = await k.subscription(c, unique('token'), { token: 'expired', getToken: async () => 'ttl:60' }); await t.ready(5000);
    },
    async subscribe_errors(k) {
      const c = await k.connected();
      for (const [channel, code] of [[unique('nowhere'), 102], [unique('secret'), 103], [unique('token'), 103], ['chat:' + 'x'.repeat(300), 107]]) {
        const s = await k.subscription(c, channel);
        await until(() => s.state === 'unsubscribed', 'unsubscribed');
        eq(s.log.find(e => e[0] === 'unsubscribed')[1].code, code, channel.slice(0, 20));
      }
      eq(c.state, 'connected');
      const s = await k.subscription(c, unique('chat')); await s.ready(5000);
      eq((await rejected(c.publish(unique('chat'), k.J(1)))).code, 103, 'publish elsewhere');
      eq((await rejected(c.presence(unique('small')))).code, 108, 'presence where there is none');
    },
    async unsubscribe_stops_publications(k) {
      const channel = unique('chat'); const other = await k.connected(); const c = await k.connected();
      const s = await k.subscription(c, channel); await s.ready(5000);
      await k.publish(other, channel, [1]); await until(() => s.pubs.length === 1, 'first');
      s.unsubscribe(); await c.rpc('echo', k.J(1));
      await k.publish(other, channel, [2]); await c.rpc('echo', k.J(1)); await sleep(50); eq(s.pubs.length, 1);
      s.subscribe(); await until(() => s.pubs.length === 2, 'recovered after subscribing again'); eq(k.U(s.pubs[1].data), 2);
    },
    async unsubscribe_while_subscribing(k) {
      const c = await k.connected(); const channel = unique('chat:slow').replace('chat:slow:', 'chat:slow');
      const s = await k.subscription(c, channel); await sleep(20); s.unsubscribe(); s.subscribe(); await s.ready(5000);
      await s.publish(k.J(1)); await until(() => s.pubs.length === 1, 'publication'); eq(c.state, 'connected');
      eq(c.log.filter(e => e[0] === 'connecting').length, 1);
    },
    async server_unsubscribes(k) {
      const channel = unique('chat'); const c = await k.connected(); const s = await k.subscription(c, channel); await s.ready(5000);
      await k.ctl(c, 'unsubscribe', { channel, code: 2500, reason: 'insufficient state' });
      await until(() => s.log.filter(e => e[0] === 'subscribed').length === 2, 'resubscribed');
      await k.ctl(c, 'unsubscribe', { channel });
      await until(() => s.state === 'unsubscribed', 'unsubscribed'); const ctx = s.log.find(e => e[0] === 'unsubscribed')[1]; eq([ctx.code, ctx.reason], [2000, 'server unsubscribe']);
    },
    async server_side_subscriptions(k) {
      const channel = unique('chat'), later = unique('chat'); const other = await k.connected();
      const c = await k.connected({ data: k.J({ user: 'ada', subs: [channel] }) });
      await until(() => c.log.some(e => e[0] === 'subscribed' && e[1].channel === channel), 'subscribed');
      await k.publish(other, channel, [1]); await until(() => c.log.some(e => e[0] === 'publication'), 'publication');
      c.rpc('ctl.abort', k.J(null)).catch(() => {});
      await until(() => c.state === 'connecting', 'dropped'); await k.publish(other, channel, [2, 3]);
      await until(() => c.log.filter(e => e[0] === 'publication').length === 3, 'recovered');
      eq(c.log.filter(e => e[0] === 'publication').map(e => k.U(e[1].data)), [1, 2, 3]);
      await k.ctl(c, 'subscribe', later); await until(() => c.log.some(e => e[0] === 'subscribed' && e[1].channel === later), 'subscribed later');
      await k.publish(other, later, ['x']); await until(() => c.log.filter(e => e[0] === 'publication').length === 4, 'later publication');
      await k.ctl(c, 'unsubscribe', { channel: later }); await until(() => c.log.some(e => e[0] === 'unsubscribed' && e[1].channel === later), 'unsubscribed');
    },
    async disconnect_codes(k) {
      for (const [code, again] of [[3000, true], [3499, true], [4000, true], [3503, false], [4500, false], [4999, false]]) {
        const c = await k.connected(); c.rpc('ctl.disconnect', k.J({ code, reason: 'because' })).catch(() => {});
        if (again) { await until(() => c.log.filter(e => e[0] === 'connected').length === 2, `reconnected after ${code}`); eq(c.log.filter(e => e[0] === 'connecting')[1][1], { code, reason: 'because' }); }
        else { await until(() => c.state === 'disconnected', `disconnected by ${code}`); eq(c.log.find(e => e[0] === 'disconnected')[1], { code, reason: 'because' }); }
        c.disconnect();
      }
    },
    async batched_commands(k) {
      const c = await k.connected(); c.startBatching();
      const all = [...Array(100).keys()].map(n => c.rpc('echo', k.J(n)));
      const channel = unique('chat'); const s = await k.subscription(c, channel);
      c.stopBatching();
      eq((await Promise.all(all)).map(r => k.U(r.data)), [...Array(100).keys()]); await s.ready(5000);
    },
    async many_subscriptions_at_once(k) {
      const c = k.client(); const channels = [...Array(128).keys()].map(n => `chat:m${n}`); const ss = [];
      for (const ch of channels) ss.push(await k.subscription(c, ch));
      c.connect(); for (const s of ss) await s.ready(5000);
      const extra = await k.subscription(c, 'chat:onetoomany'); await until(() => extra.state === 'unsubscribed', 'refused'); eq(extra.log.find(e => e[0] === 'unsubscribed')[1].code, 106);
    },
    async reply_before_publications(k) {  // a busy channel: nothing before 'subscribed', nothing missing after it
      const channel = unique('big'); const other = await k.connected(); let busy = true;
      const noise = (async () => { let n = 0; while (busy) { await k.publish(other, channel, [...Array(20).keys()].map(() => n++)); } })();
      try {
        for (let round = 0; round < 10; round++) {
          const c = await k.connected(); const s = await k.subscription(c, channel); await until(() => s.pubs.length > 30, 'publications');
          eq(s.log.filter(e => e[0] !== 'subscribing')[0][0], 'subscribed', 'first event');
          const start = s.log.find(e => e[0] === 'subscribed')[1].streamPosition.offset;
          s.pubs.forEach((p, n) => { if (p.offset !== start + 1 + n) throw new Error(`gap: ${p.offset} after ${start + n}`); });
          c.disconnect();
        }
      } finally { busy = false; await noise; }
    },
    async odd_payloads(k) {
      const channel = unique('chat'); const c = await k.connected(); const s = await k.subscription(c, channel); await s.ready(5000);
      const odd = ['', 0, false, [], {}, 'line\nbreak', '\u2028', '"quotes"', '😀', { deep: [[[[[[1]]]]]] }, 1e21, -0.5, '</script>', 'x'.repeat(30000), [null]];
      for (const each of odd) await s.publish(k.J(each));
      await until(() => s.pubs.length === odd.length, 'all'); eq(s.pubs.map(p => k.U(p.data)), odd);
    },
    async too_large_a_message_is_refused(k) {
      if (!k.limit) return 'skipped';
      const c = await k.connected(); c.rpc('echo', k.J('x'.repeat(k.limit + 10))).catch(() => {});
      await until(() => c.state === 'disconnected', 'disconnected'); eq(c.log.find(e => e[0] === 'disconnected')[1].code, 3);
    },
  };

  root.checkCentrifuge = async function (env, only) {
    const out = [];
    for (const [name, check] of Object.entries(checks)) {
      if (only && !name.match(only)) continue;
      const k = make(env); k.limit = env.limit; const t = Date.now();
      let error = null;
      try {
        await Promise.race([check(k), sleep(20000).then(() => { throw new Error('took 20 s'); })]);
      } catch (e) { error = (e && e.stack || JSON.stringify(e)).split('\n').slice(0, 3).join(' | '); }
      for (const c of k.open) c.disconnect();
      out.push([name, error, Date.now() - t]);
      if (env.report) env.report(name, error, Date.now() - t);
    }
    return out;
  };
})(globalThis);
