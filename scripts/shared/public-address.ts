/** Whether others than this machine can reach a host: what mails and sign-ins lead to. */

/** `hostname` is that of a URL, in which 127.1 and 0x7f000001 are 127.0.0.1 already. A dot at the end says the same name. */
export const isLocalHost = (hostname: string): boolean =>
  /^(?:(?:.*\.)?local(?:host|domain)?|host\.docker\.internal|0\.0\.0\.0|(?:127|169\.254)(?:\.\d+)+|\[(?:::1?|::ffff:(?:7f[\da-f]{2}|a9fe|0):[\da-f]+|fe[89ab][\da-f]:.*)\])$/i.test(
    hostname.replace(/\.$/, ''),
  )
