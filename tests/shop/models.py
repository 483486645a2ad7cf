"""Users, products and orders in an SQL database, in the transaction of the request."""

import hashlib
import hmac
import secrets

import zope.sqlalchemy
from pyramid.config import Configurator
from sqlalchemy import CheckConstraint, ForeignKey, engine_from_config
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    password_hash: Mapped[str]

    def set_password(self, password: str) -> None:
        salt = secrets.token_bytes(16)
        self.password_hash = f"{salt.hex()}${_scrypt(password, salt).hex()}"

    def has_password(self, password: str) -> bool:
        salt, _, expected = self.password_hash.partition("$")
        found = _scrypt(password, bytes.fromhex(salt))
        return hmac.compare_digest(found, bytes.fromhex(expected))


class Product(Base):
    """``version``: of two transactions that change one product, one has to start again."""

    __tablename__ = "products"
    __table_args__ = (CheckConstraint("stock >= 0"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    stock: Mapped[int]
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_name: Mapped[str] = mapped_column(ForeignKey("users.name"))
    product_name: Mapped[str] = mapped_column(ForeignKey("products.name"))
    product: Mapped[Product] = relationship()


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)


def includeme(config: Configurator) -> None:
    """``request.dbsession``"""
    factory = sessionmaker(engine_from_config(config.get_settings()))

    def dbsession(request):
        session = factory(info={"request": request})
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
